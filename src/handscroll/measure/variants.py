"""What training variants of a recipe came to: figures of each run, means over seeds, which is best, and the table.

Knows figures and how people read them. Leaves training to recipes and curves to `report/`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from handscroll.measure.table import Table
from handscroll.model.footprint import readable

BEST = "*"


class Figure(NamedTuple):
    """What a figure is called, how it is shown, and which of several is best (None: that can't be said)."""

    label: str
    show: Callable[[float], str]
    best: Callable[[Sequence[float]], float] | None = None


FIGURES: Mapping[str, Figure] = {
    "loss": Figure("training loss", "{:.3f}".format, min),
    "held_out_loss": Figure("held-out loss", "{:.3f}".format, min),
    "perplexity": Figure("perplexity", "{:,.2f}".format, min),
    "bits_per_byte": Figure("bits per byte", "{:.3f}".format, min),
    "parameters": Figure("parameters", "{:,.0f}".format),
    "tokens": Figure("tokens", "{:,.0f}".format),
    "tokens_per_second": Figure("tokens/s", "{:,.0f}".format, max),
    "seconds": Figure("seconds", "{:,.1f}".format, min),
    "peak_bytes": Figure("peak memory", lambda size: readable(round(size)), min),
    "training_bytes": Figure("of it training", lambda size: readable(round(size)), min),
    "model_bytes": Figure("model", lambda size: readable(round(size))),
    "optimizer_bytes": Figure("optimizer", lambda size: readable(round(size))),
}


class Point(NamedTuple):
    """A place on a run's curve: real tokens and seconds so far, and the loss there."""

    tokens: float
    seconds: float
    loss: float


@dataclass(frozen=True)
class Trained:
    """One run of a variant: figures by their names in `FIGURES`, its curve; `failed` says why it has no figures."""

    variant: str
    seed: int
    figures: Mapping[str, float]
    curve: tuple[Point, ...]
    failed: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"curve": [list(point) for point in self.curve]}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Trained:
        return cls(**{**row, "curve": tuple(Point(*point) for point in row["curve"])})


class Mean(NamedTuple):
    """Over the seeds that have the figure; `spread` is their standard deviation, None of a single one."""

    mean: float
    spread: float | None


@dataclass(frozen=True)
class Outcome:
    """A variant with its runs, one a seed."""

    variant: str
    runs: tuple[Trained, ...]

    @property
    def failures(self) -> list[Trained]:
        return [run for run in self.runs if run.failed]

    def mean(self, figure: str) -> Mean | None:
        """None where no run has the figure."""
        values = [run.figures[figure] for run in self.runs if figure in run.figures]
        if not values:
            return None
        return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def to_json(self) -> dict[str, Any]:
        means = {name: mean._asdict() for name in FIGURES if (mean := self.mean(name)) is not None}
        return {"variant": self.variant, **means, "failed": {run.seed: run.failed for run in self.failures}}


def outcomes(runs: Sequence[Trained]) -> list[Outcome]:
    """The runs by variant, in their order."""
    names = dict.fromkeys(run.variant for run in runs)
    return [Outcome(name, tuple(run for run in runs if run.variant == name)) for name in names]


def best(found: Sequence[Outcome], figure: str) -> set[str]:
    """The variants whose mean is best; none where all are equal. One that failed with any seed is none of them."""
    choose = FIGURES[figure].best
    means = {each.variant: mean.mean for each in found if not each.failures and (mean := each.mean(figure)) is not None}
    if choose is None or len(set(means.values())) < 2:
        return set()
    wanted = choose([*means.values()])
    return {name for name, mean in means.items() if mean == wanted}


def variants_table(found: Sequence[Outcome]) -> Table:
    """A row a variant with the figures that any of them has; the best are marked."""
    names = [name for name in FIGURES if any(each.mean(name) is not None for each in found)]
    rows = []
    for each in found:
        cells = ["failed" if len(each.failures) == len(each.runs) else ""] if not names else []
        cells += [_cell(found, each, name) for name in names]
        rows.append((each.variant, *cells))
    columns = [FIGURES[name].label for name in names] or ["outcome"]
    title = f"Variants after the same tokens ({BEST} best)"
    if any(len(each.runs) > 1 for each in found):
        title += ", means over seeds ± their standard deviation"
    return Table(title, ("variant", *columns), tuple(rows))


def failures(found: Sequence[Outcome]) -> list[str]:
    """A line for each run that failed."""
    return [f"{run.variant}, seed {run.seed}, failed: {run.failed}" for each in found for run in each.failures]


def _cell(found: Sequence[Outcome], outcome: Outcome, figure: str) -> str:
    mean, show = outcome.mean(figure), FIGURES[figure].show
    if mean is None:
        return "failed" if outcome.failures else ""
    spread = "" if mean.spread is None else f" ± {show(mean.spread)}"
    return f"{show(mean.mean)}{spread}{' ' + BEST if outcome.variant in best(found, figure) else ''}"
