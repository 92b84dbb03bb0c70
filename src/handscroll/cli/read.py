"""`handscroll read`: a text is read once, and the memory of it is saved."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handscroll.cli.commands import CacheName, Device, Dtype, ModelName, dotted
from handscroll.cli.display import console, print_json, print_next, showing

if TYPE_CHECKING:
    from rich.console import Console

    from handscroll.kvcache.memory_file import Memory
    from handscroll.recipes.folders import Loaded


def read(
    ctx: typer.Context,
    model: ModelName,
    files: Annotated[
        list[Path],
        typer.Argument(
            help="The text, one or several files that are read one after the other: txt, md or jsonl.",
            metavar="FILE...",
        ),
    ],
    save: Annotated[Path, typer.Option(help="The file that the memory goes to, such as book.memory.")],
    cache: CacheName = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a reading to the same file that was stopped, or killed.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print file, bytes, tokens and seconds as JSON, and only that, on stdout.")
    ] = False,
) -> None:
    """Read a text of any length once, and save what is remembered of it.

    The memory can be asked as often as you like, without reading again: handscroll ask. It belongs to the model that
    made it. A long reading is saved once a minute, so that --resume can go on with it, to the same memory.

    Examples:

    \b
      handscroll read quickstart/model book.txt --save book.memory
      handscroll read quickstart/model part1.txt part2.txt --save both.memory --cache.blocks=8
      handscroll read quickstart/model book.txt --save book.memory --resume
      handscroll read quickstart/model book.txt --save small.memory --cache quantized --cache.inner=block_memory
    """
    cache_options = dotted(ctx, "cache")
    from handscroll.text import read_texts

    if save.is_file() and not resume:
        raise ValueError(f"{save} exists already: ask it, go on with it (--resume), or give another name")
    text = "\n".join(read_texts(files))
    import handscroll
    from handscroll.kvcache import usual_policy
    from handscroll.recipes.read import begin, go_on, length_of

    loaded = handscroll.load(model, dtype=dtype, device=device)
    policy = {"policy": cache or usual_policy(loaded.model.config), **cache_options}
    memory = begin(loaded.model, loaded.tokenizer, text, policy, model)
    if resume:
        memory = go_on(save, loaded.model, memory)
    people, started = console(as_json), time.perf_counter()
    show_reading(people, loaded, memory, save)
    seconds, size = time.perf_counter() - started, save.stat().st_size
    tokens = length_of(memory)
    if as_json:
        found = {"memory": str(save), "bytes": size, "tokens": tokens, "cache": policy}
        print_json(found | {"seconds_reading": round(seconds, 3)})
        return
    people.print(f"{tokens:,} tokens are remembered in {save} ({size / 1e6:,.1f} MB)")
    ask = shlex.join(["handscroll", "ask", model, "--memory", str(save)])
    print_next(people, [f'{ask} "Your question"'])


def show_reading(people: Console, loaded: Loaded, memory: Memory, save_to: Path | None) -> None:
    """Reads what the memory lacks, under a bar."""
    from handscroll.recipes.read import read as run

    with showing(people) as display:
        for event in run(loaded.model, loaded.tokenizer, memory, save_to):
            display.advance(event)
