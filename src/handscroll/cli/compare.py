"""`handscroll compare`: variants of a training recipe side by side, under one budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handscroll.cli.commands import FAILED, comma_list
from handscroll.cli.display import console, print_json, print_table, showing
from handscroll.recipes.events import Advance, Finished, Said

if TYPE_CHECKING:
    from handscroll.recipes.events import Event


def compare(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, as `handscroll train` takes it.", metavar="RECIPE.yaml")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            help="Single keys of the recipe to change for all variants, such as train.steps=60.",
            metavar="KEY.SUB=VALUE",
            show_default=False,
        ),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            help="A key and its values, separated by commas outside of brackets; may be given several times, for all "
            "combinations.",
            metavar="KEY=V1,V2,...",
            show_default=False,
        ),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Not all combinations, but the recipe, and one key changed at a time.")
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Train every variant with each of these seeds and show means and spread: 0,1,2. The recipe's own by "
            "default.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of results.json, index.html and variants/; the recipe's out with -compare by default. The "
            "same command goes on where it was stopped.",
            show_default=False,
        ),
    ] = None,
    most: Annotated[int, typer.Option(min=2, help="Refuse to train more runs than these.")] = 32,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, and only them, on stdout.")
    ] = False,
) -> None:
    """Train variants of a recipe under one token budget and compare loss, speed and memory.

    Every variant sees the same tokens in the same order, and every run has a process of its own, so that its peak
    memory says something. All variants are checked before the first one trains. One that diverges or finds no memory is
    shown as failed, and the others go on; the same command tries it again, and nothing that is finished.

    \b
    Worth varying:
      model.heads, model.kv_heads, model.position, model.feedforward, model.qk_norm,
      model.norm, model.norm_placement, model.feedforward_norm,
      model.width, model.layers, model.tied, optimizer, schedule,
      optimizer.learning_rate, train.windows_per_step,
      tokenizer.vocab_size (compare bits per byte then)

    Examples:

    \b
      handscroll compare examples/pretrain.yaml train.steps=60 \\
        --vary model.norm=layer,rms --vary model.heads=2,4
      handscroll compare examples/pretrain.yaml train.steps=60 data.held_out=0.02 \\
        --vary 'optimizer={name: adamw},{name: muon}' --seeds 0,1
      handscroll compare examples/pretrain.yaml --each --vary model.kv_heads=1,2 --vary model.layers=2,3,4
    """
    people = console(as_json)
    from handscroll.measure.variants import Outcome, Trained, outcomes, variants_table
    from handscroll.measure.variants import failures as failed_runs
    from handscroll.recipes.compare import compare as run
    from handscroll.recipes.variants import parse_choice

    choices = [parse_choice(text) for text in vary or ()]
    finished: Finished | None = None
    with showing(people) as display:

        def watch(event: Event) -> None:
            if isinstance(event, Advance):
                display.advance(event)
            elif isinstance(event, Said):
                display.say(event.text)

        for event in run(
            recipe,
            choices,
            overrides=changes or (),
            each=each,
            seeds=_seeds(seeds),
            out=out,
            most=most,
            watch=watch,
        ):
            watch(event)
            if isinstance(event, Finished):
                finished = event
    assert finished is not None, "a comparison ends with its result"
    found: list[Outcome] = outcomes([Trained.from_json(row) for row in finished.result["runs"]])
    if as_json:
        print_json(finished.result)
    else:
        print_table(people, variants_table(found))
        for line in failed_runs(found):
            people.print(line)
    if all(len(each.failures) == len(each.runs) for each in found):
        raise typer.Exit(FAILED)


def _seeds(text: str | None) -> tuple[int, ...]:
    parts = comma_list(text) if text is not None else ()
    if not all(part.isdecimal() for part in parts) or (text is not None and not parts):
        raise ValueError(f"--seeds {text}: give whole numbers from 0 on, separated by commas, such as 0,1,2")
    return tuple(map(int, parts))
