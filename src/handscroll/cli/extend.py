"""`handscroll extend`: a longer window for a trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from handscroll.cli.commands import CAN_RESUME, ModelName, dotted
from handscroll.cli.display import console
from handscroll.cli.tuning import AsJson, NewFolder, ResumeTuning, Tune, TuneChanges, show_made

FACTORS = ("short_factor", "long_factor")


def extend(
    ctx: typer.Context,
    model: ModelName,
    to: Annotated[int, typer.Option(help="The new window, in tokens.", show_default=False)],
    out: NewFolder,
    changes: TuneChanges = None,
    method: Annotated[
        str,
        typer.Option(
            help="How positions are stretched: linear, ntk, dynamic, yarn, llama3, longrope, dynamic_alibi, or none. "
            "Its options follow with a dot, such as --position.beta_fast=16."
        ),
    ] = "yarn",
    factors: Annotated[
        Path | None,
        typer.Option(
            help="Of longrope: a JSON file with short_factor and long_factor, a number for each pair of features.",
            show_default=False,
        ),
    ] = None,
    tune: Tune = None,
    resume: ResumeTuning = False,
    as_json: AsJson = False,
) -> None:
    """Give a model a longer window, and train it there if you like.

    The weights stay as they are; config.json says how positions are stretched, so that transformers and Handscroll
    read texts of the new length. Most methods are worth more after some training (--tune).

    \b
    linear    all positions closer together; wants training (2306.15595)
    ntk       a larger rope_theta: what turns fast keeps its speed
    dynamic   the same, only as far as the text is long: short texts as before
    yarn      by wavelength, with sharper attention (2309.00071)
    llama3    by wavelength, as in Llama 3.1 (2407.21783)
    longrope  factors that a search has found, from --factors (2402.13753)
    dynamic_alibi  of ALiBi: slopes that follow the length of the text
    none      a longer window and nothing else, to compare with

    Examples:

    \b
      handscroll extend quickstart/model --to 4096 --out runs/long
      handscroll extend quickstart/model --method ntk --to 4096 --out runs/ntk --position.factor=16
      handscroll extend runs/pretrain/model --to 4096 --out runs/long --tune examples/extend.yaml
    """
    ctx.meta[CAN_RESUME] = tune is not None
    options = dotted(ctx, "position")
    if factors is not None:
        options = {**_read_factors(factors), **options}
    people = console(as_json)
    from handscroll.recipes.extend import extend as run

    events = run(model, out, method=method, to=to, options=options, tune=tune, changes=changes or (), resume=resume)
    show_made(people, events, out, as_json)


def _read_factors(path: Path) -> dict[str, Any]:
    """The two lists of a JSON file; what else it holds, such as a whole rope_scaling, is not looked at."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): give a file with {' and '.join(FACTORS)}") from error
    if not isinstance(content, dict) or not set(FACTORS) <= content.keys():
        raise ValueError(f"{path} must hold {' and '.join(FACTORS)}, a list of numbers each")
    return {name: content[name] for name in FACTORS}
