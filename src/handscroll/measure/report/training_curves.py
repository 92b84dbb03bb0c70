"""Curves of one training run against its steps, and of a sweep over learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from handscroll.measure.report.drawing import INK, MUTED, SERIES, WIDTH, draw, plain
from handscroll.training.log import best_evaluation, evaluations, neighbours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 400


class Sweep(NamedTuple):
    """Losses at rising learning rates, as they were and smoothed, and the rates to mark by what they are."""

    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    marks: Mapping[str, float]


def loss_curves(log: Sequence[Mapping[str, Any]]) -> str:
    """Loss in training, and in evaluation where there was one, whose best is marked."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        _curve(axes, log, "loss", SERIES[0], "training")
        if (best := best_evaluation(log)) is not None:
            steps, losses = zip(*((row["step"], row["loss"]) for row in evaluations(log)), strict=True)
            axes.plot(steps, losses, color=SERIES[1], marker="o", markersize=3, label="evaluation")
            axes.plot(best["step"], best["loss"], "o", color=SERIES[1], markersize=8, fillstyle="none")
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, labelcolor=INK, fontsize=9.5)
        axes.set_ylabel("loss, nats a token")
        _steps(axes)

    return draw("training-loss", WIDTH, 3.6, paint)


def small_curves(log: Sequence[Mapping[str, Any]]) -> str:
    """Learning rate, gradient norm and tokens a second, one below the other."""
    shown = {"learning_rate": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens/s"}

    def paint(figure: Figure) -> None:
        parts = figure.subplots(len(shown), 1, sharex=True)
        for axes, (key, label), colour in zip(parts, shown.items(), SERIES[2:], strict=False):
            _curve(axes, log, key, colour, label)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
        _steps(parts[-1])

    return draw("training-rates", WIDTH, 5.4, paint)


def metric_curves(log: Sequence[Mapping[str, Any]]) -> str:
    """What the objective told besides its loss, and the parts of a loss that has several; nothing of a plain one."""
    rows = [{**row, **_told(row)} for row in log]
    shown = list(_told(log[-1]))
    if not shown:
        return ""

    def paint(figure: Figure) -> None:
        parts = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for place, (axes, name) in enumerate(zip(parts, shown, strict=True)):
            _curve(axes, [row for row in rows if name in row], name, SERIES[place % len(SERIES)], name)
            axes.set_ylabel(plain(name.replace("_", " ")))
        _steps(parts[-1])

    return draw("training-metrics", WIDTH, 0.6 + 1.6 * len(shown), paint)


def _told(row: Mapping[str, Any]) -> dict[str, float]:
    """Of older logs nothing."""
    terms = row.get("terms") or {}
    return {**(terms if len(terms) > 1 else {}), **(row.get("metrics") or {})}


def sweep_curve(sweep: Sweep) -> str:
    """Loss against a logarithmic learning rate, with the suggested ones marked."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(sweep.rates, sweep.losses, color=SERIES[0], alpha=0.3, linewidth=1)
        axes.plot(sweep.rates, sweep.smoothed, color=SERIES[0])
        axes.set_xscale("log")
        low, high = min(sweep.smoothed), sweep.smoothed[0]
        axes.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
        for place, (name, rate) in enumerate(sweep.marks.items()):
            axes.axvline(rate, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
            axes.annotate(
                plain(f"{name}: {rate:.2g}"), (rate, 1.02 + 0.07 * place), xycoords=("data", "axes fraction"),
                color=MUTED, fontsize=9,
            )  # fmt: skip
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss, nats a token")

    return draw("sweep", WIDTH, 3.6, paint)


def _curve(axes: Axes, log: Sequence[Mapping[str, Any]], key: str, colour: str, label: str) -> None:
    """The mean of neighbouring steps, shaded from the least to the most of them."""
    groups = neighbours(log, POINTS)
    steps = [sum(row["step"] for row in group) / len(group) for group in groups]
    values = [[row[key] for row in group] for group in groups]
    means = [sum(group) / len(group) for group in values]
    axes.plot(steps, means, color=colour, label=label, marker="o" if len(log) == 1 else None)
    if len(groups[0]) > 1:
        axes.fill_between(steps, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.15, linewidth=0)


def _steps(axes: Axes) -> None:
    axes.set_xlabel("training step")
    axes.margins(x=0.01)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
