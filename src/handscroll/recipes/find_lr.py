"""A learning rate found by a sweep: the loss of a short run whose rate rises exponentially (arXiv 1506.01186).

While the rate is too low the loss stays, then it falls, and once the rate is too high it explodes. Two rates are
suggested: where the smoothed loss falls fastest, and a tenth of where it is lowest. Rules with other rates, such as
AdamW beside Muon, rise in proportion. The model that is swept is thrown away.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handscroll.measure.report.drawing import standalone
from handscroll.measure.report.training_curves import Sweep, sweep_curve
from handscroll.recipes.events import Advance, Event, Finished
from handscroll.recipes.output import check_writable
from handscroll.recipes.prepare import prepare
from handscroll.recipes.schema import Recipe
from handscroll.text.files import write_files
from handscroll.training import Trainer, parallel

STEPS = 100
LOWEST, HIGHEST = 1e-6, 1.0
# How much of the smoothed loss the past has, and how many times the best of it ends the sweep.
SMOOTHING, EXPLODED = 0.8, 3.0
STEEPEST, TENTH = "steepest", "tenth_of_minimum"


def find_lr(recipe: Recipe, *, steps: int = STEPS) -> Iterator[Event]:
    """Sweeps over `steps` steps; leaves `find-lr.json` and a curve `find-lr.svg` in the recipe's `out`.

    Files that are there already stay: the next pair is `find-lr-2`. Ends with `Finished`, whose result has `rates`,
    `losses`, `smoothed`, the suggestions and `files`. Raises ValueError for a recipe that `train` would refuse, for a
    rate of 0, and where the loss never falls.
    """
    out = Path(recipe.out)
    check_writable(out)
    if parallel.size() > 1:
        raise ValueError(f"a sweep needs one process, here are {parallel.size()}: start it alone")
    prepared = prepare(recipe)
    peak = recipe.optimizer.learning_rate  # type: ignore[attr-defined]  # every optimizer has one
    if peak <= 0:
        raise ValueError(
            f"optimizer.learning_rate={peak}: other rates rise in proportion to it, so give a positive one"
        )
    return _sweep(
        out, Trainer({"model": prepared.model}, prepared.objective, prepared.source, prepared.options), peak, steps
    )


def _sweep(out: Path, trainer: Trainer, peak: float, steps: int) -> Iterator[Event]:
    rates, losses = [], []
    for step in range(steps):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / max(1, steps - 1))
        averages, _, _ = trainer.accumulate(step)
        norm = trainer.clip()
        if not (math.isfinite(averages.loss) and math.isfinite(norm)):
            break
        rates.append(rate)
        losses.append(averages.loss)
        smoothed = smooth(losses)
        yield Advance("sweeping", step + 1, steps, "steps", note=f"rate {rate:.1e}, loss {averages.loss:.3f}")
        if smoothed[-1] > EXPLODED * min(smoothed):
            break
        trainer.move(rate / peak, norm)
    smoothed = smooth(losses)
    found = suggest(rates, smoothed)
    files = _write(out, Sweep(rates, losses, smoothed, found))
    yield Finished({"rates": rates, "losses": losses, "smoothed": smoothed, **found, "files": files})


def smooth(losses: Sequence[float]) -> list[float]:
    """Exponentially weighted means, the first ones corrected for how few losses they are of."""
    mean, smoothed = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**number))
    return smoothed


def suggest(rates: Sequence[float], smoothed: Sequence[float]) -> dict[str, float]:
    """The rate at which the loss falls fastest, per factor of the rate, and a tenth of that where it is lowest."""
    lowest = int(np.argmin(smoothed))
    if lowest < 2:
        raise ValueError(
            f"the loss never fell in {len(rates)} steps from a rate of {LOWEST:g} on: look at data and model"
        )
    slopes = np.gradient(np.asarray(smoothed[: lowest + 1]), np.log(rates[: lowest + 1]))
    return {STEEPEST: rates[int(np.argmin(slopes))], TENTH: rates[lowest] / 10}


def _write(out: Path, sweep: Sweep) -> list[str]:
    number = 1
    while any((out / f"{_name(number)}.{kind}").exists() for kind in ("json", "svg")):
        number += 1
    values: dict[str, Any] = {"rates": sweep.rates, "losses": sweep.losses, "smoothed": sweep.smoothed, **sweep.marks}
    files = {
        f"{_name(number)}.json": [json.dumps(values, indent=1), "\n"],
        f"{_name(number)}.svg": [standalone(sweep_curve(sweep))],
    }
    write_files(out, files)
    return [str(out / name) for name in files]


def _name(number: int) -> str:
    return "find-lr" if number == 1 else f"find-lr-{number}"
