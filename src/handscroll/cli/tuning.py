"""What verbs share that make a model of another one, and may train it first: their options, and how they end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handscroll.cli.display import follow, print_json, print_next
from handscroll.recipes.events import Event

if TYPE_CHECKING:
    from rich.console import Console

NewFolder = Annotated[
    Path, typer.Option(help="Folder that the model is written to; it must be new.", show_default=False)
]
TuneChanges = Annotated[
    list[str] | None,
    typer.Argument(
        help="Single keys of the recipe of --tune to change, such as train.steps=100.",
        metavar="KEY.SUB=VALUE",
        show_default=False,
    ),
]
Tune = Annotated[
    Path | None,
    typer.Option(
        help="A training recipe that the model goes through before it is written. The recipe's out holds the run; "
        "what it says of model and tokenizer is not used.",
        metavar="RECIPE.yaml",
        show_default=False,
    ),
]
ResumeTuning = Annotated[
    bool, typer.Option("--resume", help="Go on with the training of --tune from its last checkpoint.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what was written as JSON, and only that.")]


def show_made(people: Console, events: Iterable[Event], out: Path, as_json: bool) -> None:
    """Shows how far it is, and at the end where the model is and what may be done with it."""
    finished = follow(people, events)
    assert finished is not None
    if as_json:
        print_json(finished.result)
        return
    people.print(f"the model is in {out}")
    print_next(people, finished.next_commands)
