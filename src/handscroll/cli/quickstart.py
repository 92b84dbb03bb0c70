"""`handscroll quickstart`: the main job, from text to a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from handscroll.cli.display import console, follow, print_json, print_next, print_table

if TYPE_CHECKING:
    from handscroll.measure.table import Table


class QuickstartCommand(TyperCommand):
    """`--corpus` takes any number of files: --corpus a.txt b.txt is --corpus a.txt --corpus b.txt."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words: list[str] = []
        option, values = "", 0
        for word in args:
            if word.startswith("-"):
                option, sign, _ = word.partition("=")
                values = 1 if sign else 0
            else:
                values += 1
                if option == "--corpus" and values > 1:
                    words.append(option)
            words.append(word)
        return super().parse_args(ctx, words)


def quickstart(
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            help="Your own text, one or several files: txt, md, or jsonl with a column text. Facts are planted in it, "
            "and the questions ask for them. Without it a synthetic English and Chinese world is written.",
            metavar="FILE...",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="How long training may take, in minutes; made into a number of steps at the start.")
    ] = 7.25,
    window: Annotated[int, typer.Option(help="The window that the model is trained on, in tokens.")] = 512,
    tokens: Annotated[int, typer.Option(help="Length of the document that is read, in tokens.")] = 131072,
    seed: Annotated[int, typer.Option(help="The same seed, options and machine give the same result.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of everything that is written.")] = Path("quickstart"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out that was stopped, or killed.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="Read the whole document with the policy full, too; it takes long."),
    ] = False,
    tasks: Annotated[
        bool,
        typer.Option(
            "--tasks",
            help="Teach long-context tasks, too (keys of gates, keys and values, needles), for `handscroll eval "
            "--suite passkey,number,kv,multi_needle`; give more --minutes.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and only that, on stdout.")
    ] = False,
) -> None:
    """Train a small model, let it read far past its window, and see what every way of remembering is worth.

    It learns a vocabulary and trains a model on text; teaches it to answer questions; lets it read a document that is
    hundreds of times longer than its training window; and asks about it, under several ways of remembering.

    It leaves a table here and in --out: report.html (one page, open it in a browser), result.json, and model/, a
    Hugging Face folder.

    Examples:

    \b
      handscroll quickstart
      handscroll quickstart --corpus novel.txt --minutes 10 --out runs/novel
      handscroll quickstart --resume --out runs/novel
      handscroll quickstart --tasks --minutes 12 --out runs/reader
    """
    people = console(as_json)
    from handscroll.recipes.quickstart import quickstart as run
    from handscroll.recipes.quickstart_options import QuickstartOptions

    options = QuickstartOptions(
        corpus=tuple(corpus or ()),
        minutes=minutes,
        window=window,
        tokens=tokens,
        seed=seed,
        out=out,
        resume=resume,
        full=full,
        tasks=tasks,
    )
    finished = follow(people, run(options))
    if finished is None:
        return
    if as_json:
        print_json(finished.result)
        return
    print_table(people, policies_table(finished.result))
    print_next(people, finished.next_commands)


def policies_table(result: dict[str, Any]) -> Table:
    """The policies of a result, side by side; what was estimated stands in rows of its own."""
    from handscroll.measure.table import Table

    rows = []
    for name, figures in result.get("policies", {}).items():
        rows.append((name, *(figures.get(key) for key in COLUMNS.values())))
        if (guess := figures.get("extrapolated")) is not None:
            rows.append((f"{name}, estimated", *(guess.get(key) for key in COLUMNS.values())))
    shares = frozenset(name for name, key in COLUMNS.items() if key.startswith("recall"))
    return Table("Ways of remembering", ("policy", *COLUMNS), tuple(rows), shares)


# What a column shows of a policy's figures in result.json.
COLUMNS = {
    "tokens": "tokens",
    "recall": "recall",
    "beyond window": "recall_beyond_window",
    "perplexity": "perplexity",
    "device bytes": "device_bytes",
    "host bytes": "host_bytes",
    "seconds": "seconds",
}
