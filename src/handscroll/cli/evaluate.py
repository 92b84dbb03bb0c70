"""`handscroll eval`: a model under several ways of remembering, side by side; one suite, or several at many lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handscroll.cli.commands import CAN_RESUME, Device, Dtype, ModelName, comma_list, dotted
from handscroll.cli.display import console, follow, print_json, print_table, showing
from handscroll.recipes.events import Advance

if TYPE_CHECKING:
    from rich.console import Console

    from handscroll.kvcache import Policy
    from handscroll.measure.table import Table

UNITS = {"k": 1024, "m": 1024**2}
DEFAULT_TOKENS = 8192


def evaluate(
    ctx: typer.Context,
    model: ModelName,
    suite: Annotated[
        str,
        typer.Option(
            help="What to measure, separated by commas: recall, perplexity, dispersion (of attention), needle, "
            "passkey, number, kv, multi_needle, tracing, words, qa, lost_in_the_middle, ruler; of a BERT, an ERNIE or "
            "a GLM masked (tokens) and infilling (spans), of --suite.files=[text.txt]. Further options follow "
            "with a dot, such as --suite.prompt=with (context and question in one prompt), --suite.opened=true "
            "(replies are begun up to the answer, as RULER does), --suite.full_limit=32768, for perplexity in windows "
            "--suite.window=512 --suite.stride=256, and the files that RULER needs: "
            "--suite.haystack_files=[book.txt] --suite.question_files=[squad.json]."
        ),
    ] = "recall",
    policies: Annotated[
        str,
        typer.Option(
            help="Ways of remembering, separated by commas; with options as a YAML list: "
            '"[full, {policy: block_memory, blocks: 8}]". They serve every suite and length, but for masked '
            "and infilling, which need none."
        ),
    ] = "full,sliding_window,block_memory",
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Length of the text that is read, in tokens; 8,192 by default. The policy full stops at "
            "--suite.full_limit=8192.",
            show_default=False,
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(help="Several lengths: 4k,32k,128k (k = 1,024 tokens) or plain numbers.", show_default=False),
    ] = None,
    questions: Annotated[
        int | None, typer.Option(help="Asked of one text; each suite has its own default.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the synthetic text and the questions.")] = 0,
    language: Annotated[str, typer.Option(help="en, zh, or both.")] = "en,zh",
    dtype: Dtype = "auto",
    device: Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="One suite at one length: a file that its table is written to as JSON. Else a folder: results.json "
            "after every finished cell, and at last index.html with its figures; the same command goes on where it "
            "was stopped.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, and only them, on stdout.")
    ] = False,
) -> None:
    """Measure a model under several ways of remembering, side by side.

    Examples:

    \b
      handscroll eval quickstart/model --suite recall --tokens 131072
      handscroll eval quickstart/model --policies full,block_memory --language zh --json
      handscroll eval quickstart/model --suite perplexity --out perplexity.json
      handscroll eval quickstart/model --suite ruler,needle,qa --lengths 4k,32k --out longer
      handscroll eval runs/bert/model --suite masked,infilling --suite.files=[people.jsonl] --language en
    """
    if tokens is not None and lengths is not None:
        raise ValueError("--tokens is one length and --lengths are several: give one of the two")
    length = DEFAULT_TOKENS if tokens is None else tokens
    options: dict[str, Any] = {"seed": seed, "languages": comma_list(language)}
    if questions is not None:
        options["questions"] = questions
    options |= dotted(ctx, "suite")
    people, made, suites = console(as_json), _policies(policies), comma_list(suite)
    placed = {"dtype": dtype, "device": device}
    if len(suites) == 1 and lengths is None:
        options = {"tokens": length, **options}
        ctx.meta[CAN_RESUME] = False
        tables, result = _one(model, placed, suites[0], made, options, out, people)
    else:
        ctx.meta[CAN_RESUME] = out is not None
        sizes = parse_lengths(lengths) if lengths is not None else (length,)
        tables, result = _battery(model, placed, suites, sizes, made, options, out, people)
    if as_json:
        print_json(result)
    else:
        for table in tables:
            print_table(people, table)


def _one(
    model: str,
    placed: dict[str, str],
    suite: str,
    policies: list[Policy],
    options: dict[str, Any],
    out: Path | None,
    people: Console,
) -> tuple[list[Table], dict[str, Any]]:
    """One suite at one length, shown as its own table."""
    from handscroll.recipes.output import check_writable

    if out is not None:
        if out.is_dir():
            raise ValueError(f"--out {out} is a folder: give the name of a file")
        check_writable(out.absolute().parent)
    import handscroll
    from handscroll.measure.suites import Subject, find_suite
    from handscroll.measure.table import Table

    found = find_suite(suite)
    table: Table | None = None
    with showing(people) as display:
        for step in found.steps(
            Subject(*handscroll.load(model, dtype=placed["dtype"], device=placed["device"])), policies, **options
        ):
            if isinstance(step, Table):
                table = step
                continue
            cell, work = step
            task = cell.policy if cell.task == suite and not cell.lang else f"{cell.policy}, {cell.row}"
            display.advance(Advance(f"{task}: {work.doing}", work.done, work.total, work.unit, work.tokens_per_second))
    assert table is not None
    result = {"model": model, "suite": suite, **options, "title": table.title, "rows": table.records()}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        people.print(f"wrote {out}")
    return [table], result


def _battery(
    model: str,
    placed: dict[str, str],
    suites: tuple[str, ...],
    lengths: tuple[int, ...],
    policies: list[Policy],
    options: dict[str, Any],
    out: Path | None,
    people: Console,
) -> tuple[list[Table], dict[str, Any]]:
    """Several suites or lengths, shown as one table of scores and one of costs."""
    from handscroll.measure.battery import Battery
    from handscroll.measure.battery_tables import battery_tables
    from handscroll.measure.suites.record import Record
    from handscroll.recipes.evaluate import evaluate as run

    finished = follow(people, run(model, Battery(suites, lengths, tuple(policies), options), out, **placed))
    assert finished is not None
    records = [Record.from_json(row) for row in finished.result["records"]]
    return battery_tables(records), finished.result


def parse_lengths(text: str) -> tuple[int, ...]:
    """ "4k,100000,1m" as numbers of tokens. ValueError for what is none."""
    lengths = []
    for part in comma_list(text):
        number, unit = (part[:-1], part[-1].lower()) if part[-1:].isalpha() else (part, "")
        if not number.isdecimal() or unit not in ("", *UNITS) or int(number) < 1:
            raise ValueError(f"the length {part!r} is not understood: give numbers of tokens, such as 4096, 4k or 1m")
        lengths.append(int(number) * UNITS.get(unit, 1))
    return tuple(lengths)


def _policies(text: str) -> list[Policy]:
    """Made at once, so that a mistyped one is known before a model is read."""
    from handscroll.kvcache import make_policy
    from handscroll.recipes.values import parse_value

    names = parse_value(text) if text.lstrip().startswith(("[", "{")) else comma_list(text)
    return [make_policy(name) for name in (names if isinstance(names, list | tuple) else [names])]
