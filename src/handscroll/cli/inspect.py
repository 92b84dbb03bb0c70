"""`handscroll inspect`: what a model is made of, and what it needs to read a text; its weights are not loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handscroll.cli.commands import Device, Dtype, ModelName, dotted
from handscroll.cli.display import console, print_json, print_table
from handscroll.cli.evaluate import parse_lengths

if TYPE_CHECKING:
    from handscroll.measure.table import Table, Value


def inspect(
    ctx: typer.Context,
    model: ModelName,
    context: Annotated[
        str | None,
        typer.Option(
            help="Length of the text that memory is told for: 32k (k = 1,024 tokens) or a number; by default the "
            "trained window.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="How many such texts are read at a time.")] = 1,
    cache: Annotated[
        str | None,
        typer.Option(
            help="Only this way of remembering, such as block_memory; its options follow with a dot, such as "
            "--cache.window=256. By default each of them.",
            show_default=False,
        ),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON, and only that, on stdout.")] = False,
) -> None:
    """Show what a model is made of, and the memory that a text takes.

    Only config.json, the tokenizer and the headers of the weights are read: a large model is shown as fast as a small
    one, also where it would not fit.

    Examples:

    \b
      handscroll inspect quickstart/model
      handscroll inspect Qwen/Qwen3-8B --context 128k --dtype bfloat16
      handscroll inspect quickstart/model --context 1m --batch 4 --cache quantized --cache.bits=4 --json
    """
    options = dotted(ctx, "cache")
    if options and cache is None:
        raise ValueError("options of a way of remembering need its name: give --cache, too")
    lengths = None if context is None else parse_lengths(context)
    if lengths is not None and len(lengths) != 1:
        raise ValueError(f"--context {context!r}: give one length, such as 32k")
    from handscroll.kvcache import make_policy
    from handscroll.recipes.inspect import Need, inspect_model

    policies = [] if cache is None else [make_policy({"policy": cache, **options})]
    need = Need(None if lengths is None else lengths[0], batch)
    found = inspect_model(model, need, policies, dtype=dtype, device=device)
    if as_json:
        print_json(found)
        return
    people = console()
    for table in tables(found):
        print_table(people, table)
    for each in found["memory"]:
        if "refused" in each:
            people.print(f"{each['policy']}: {each['refused']}", highlight=False)


def tables(found: Mapping[str, Any]) -> list[Table]:
    """What was found, for people."""
    from handscroll.measure.table import Table
    from handscroll.model.footprint import readable

    total, tokenizer, free = found["parameters"], found["tokenizer"], found["free_bytes"]
    slots: list[tuple[Value, ...]] = [
        (name.replace("_", " "), _shown(value)) for name, value in found["architecture"].items() if value is not None
    ]
    slots.append(("commands", ", ".join(found["commands"])))
    modules: list[tuple[Value, ...]] = [
        (
            each["kind"].removesuffix(".weight"),
            " x ".join(map(str, each["shape"])),
            each["each"],
            each["times"],
            each["total"],
            each["total"] / total,
        )
        for each in found["kinds"]
    ]
    weights: list[tuple[Value, ...]] = [
        ("in the file", f"{', '.join(found['dtype'])}: {readable(found['stored_bytes'])}"),
        ("loaded", f"{found['loaded_dtype']} on {found['device']}: {readable(found['weights_bytes'])}"),
        ("free there", "unknown" if free is None else readable(free)),
        ("tokenizer", "none that can be read" if tokenizer is None else f"{tokenizer['tokens']:,} tokens"),
        ("chat template", _shown(tokenizer is not None and tokenizer["has_chat_template"])),
    ]
    memory: list[tuple[Value, ...]] = []
    for each in found["memory"]:
        if "refused" in each:
            memory.append((each["policy"], "refused", "", ""))
            continue
        archive = readable(each["host_bytes"]) + (" on disk" if each["on_disk"] else "")
        both = each["device_bytes"] + (0 if each["on_disk"] else each["host_bytes"])
        memory.append(
            (each["policy"], readable(each["device_bytes"]), archive, readable(both + found["weights_bytes"]))
        )
    text = f"{found['context']:,} tokens" if found["batch"] == 1 else f"{found['batch']} x {found['context']:,} tokens"
    active = found["active_parameters"]
    few = f", of which a token takes {active:,}" if active < total else ""
    columns = ("module", "shape", "each", "times", "parameters", "share")
    return [
        Table(found["model"], ("slot", "value"), tuple(slots)),
        Table(f"Parameters: {total:,}{few}", columns, tuple(modules), frozenset({"share"})),
        Table("Weights", ("weights", "value"), tuple(weights)),
        Table(f"Memory of {text}", ("policy", "read at once", "archive", "with weights"), tuple(memory)),
    ]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping) and "kind" in value:
        return ", ".join((value["kind"], *(f"{name} {_shown(each)}" for name, each in value.items() if name != "kind")))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
