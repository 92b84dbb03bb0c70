"""The page of one training run: its curves, the figures at its end, its recipe.

Knows the lines of a run's log. Leaves looks to `training.html.jinja` and `page.css`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handscroll.measure.report.page import Tile
from handscroll.measure.report.template import render
from handscroll.measure.report.training_curves import loss_curves, metric_curves, small_curves
from handscroll.text.files import write_files
from handscroll.training.log import best_evaluation


@dataclass(frozen=True)
class TrainingReport:
    """The lines of a run's log, how many parameters its model has, its recipe as YAML.

    `saved`: the step whose weights the saved model has, where that isn't simply the last.
    """

    log: Sequence[Mapping[str, Any]]
    parameters: int
    recipe: str
    saved: int | None = None


def write_training_report(path: Path, report: TrainingReport) -> None:
    """Writes the page; it appears whole or not at all. ValueError for a run without a step, or a full disk."""
    write_files(path.parent, {path.name: [render_training_report(report)]})


def render_training_report(report: TrainingReport) -> str:
    """The page as HTML."""
    if not report.log:
        raise ValueError("there is nothing to report: the run has taken no step")
    return render(
        "training.html.jinja",
        headline=headline(report),
        tiles=tiles(report),
        loss=loss_curves(report.log),
        rates=small_curves(report.log),
        metrics=metric_curves(report.log),
        recipe=report.recipe,
    )


def headline(report: TrainingReport) -> str:
    """One sentence about how far the run came."""
    last = report.log[-1]
    words = f"{report.parameters:,} parameters learnt from {last['tokens']:,} tokens in {last['step']:,} steps"
    if last["step"] < last["steps"]:
        words += f" of {last['steps']:,}"
    if report.saved is not None:
        words += f"; the model is that of step {report.saved:,}, which evaluated best"
    return words + "."


def tiles(report: TrainingReport) -> list[Tile]:
    """The figures at the end."""
    last = report.log[-1]
    shown = [Tile(f"{last['loss']:.3f}", "nats a token, the loss of the last step")]
    if (best := best_evaluation(report.log)) is not None:
        shown.append(Tile(f"{best['loss']:.3f}", f"the best evaluation's loss, after step {best['step']:,}"))
        shown.append(Tile(f"{best['perplexity']:,.2f}", "perplexity of a token in that evaluation"))
    shown.append(Tile(f"{last['tokens']:,}", "tokens trained on"))
    shown.append(Tile(f"{last['seconds']:,.0f} s", "from the first step to the last, evaluations included"))
    shown.append(Tile(f"{last['tokens_per_second']:,.0f}", "tokens a second, over the last steps"))
    return shown
