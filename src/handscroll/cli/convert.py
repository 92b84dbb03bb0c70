"""`handscroll convert`: fewer heads for keys and values in a trained model."""

from __future__ import annotations

from typing import Annotated

import typer

from handscroll.cli.commands import CAN_RESUME, ModelName
from handscroll.cli.display import console
from handscroll.cli.tuning import AsJson, NewFolder, ResumeTuning, Tune, TuneChanges, show_made


def convert(
    ctx: typer.Context,
    model: ModelName,
    kv_heads: Annotated[
        int,
        typer.Option(help="Heads for keys and values; the model's number is a multiple of it.", show_default=False),
    ],
    out: NewFolder,
    changes: TuneChanges = None,
    pooling: Annotated[
        str, typer.Option(help="What becomes of a group of heads: their mean, or the first of them.")
    ] = "mean",
    tune: Tune = None,
    resume: ResumeTuning = False,
    as_json: AsJson = False,
) -> None:
    """Make a multi-head model grouped- or multi-query: fewer heads for keys and values, and a smaller cache.

    Keys and values of neighbouring heads are pooled by their mean (2305.13245, section 2.1). The model reads worse
    until it is trained on: by a twentieth of the tokens that it was trained on, say (--tune).

    Examples:

    \b
      handscroll convert runs/pretrain/model --kv-heads 1 --out runs/multi-query
      handscroll convert runs/pretrain/model --kv-heads 1 --out runs/tuned \\
        --tune examples/convert.yaml
    """
    ctx.meta[CAN_RESUME] = tune is not None
    people = console(as_json)
    from handscroll.recipes.convert import convert as run

    events = run(model, out, kv_heads=kv_heads, pooling=pooling, tune=tune, changes=changes or (), resume=resume)
    show_made(people, events, out, as_json)
