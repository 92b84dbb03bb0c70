"""The report's curves: training loss, perplexity against position, pace of reading.

Each function takes what was measured and gives SVG. How SVG fits into the page is in `drawing.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from handscroll.measure.report.colours import colours
from handscroll.measure.report.drawing import INK, MUTED, SERIES, WIDTH, draw, plain, token_axis
from handscroll.measure.results import PolicyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Item = TypeVar("Item")

LOSS_POINTS = 400
PACE_POINTS = 48
# The width of a letter of a stage's name, of that of the figure.
LETTER = 0.0085


def loss_figure(losses: Sequence[tuple[int, float]], stages: Sequence[tuple[str, int]]) -> str:
    """Loss (nats a token) against step, averaged over runs of steps; each stage begins at its first step."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        borders = [first for _, first in stages[1:]]
        for part in _parts(losses, borders):
            each = max(1, round(len(part) * LOSS_POINTS / len(losses)))
            grouped = _groups(part, each)
            axes.plot(
                [sum(step for step, _ in group) / len(group) for group in grouped],
                [sum(loss for _, loss in group) / len(group) for group in grouped],
                color=SERIES[0],
            )
            lows = [min(loss for _, loss in group) for group in grouped]
            highs = [max(loss for _, loss in group) for group in grouped]
            steps = [sum(step for step, _ in group) / len(group) for group in grouped]
            axes.fill_between(steps, lows, highs, color=SERIES[0], alpha=0.15, linewidth=0)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss, nats a token")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        top = axes.get_ylim()[1]
        for (name, first), row in zip(stages, _rows(stages, losses[-1][0]), strict=True):
            if first in borders:
                axes.axvline(first, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
            axes.text(first, top * (1.02 + 0.07 * row), plain(name), color=MUTED, fontsize=9)
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")

    return draw("loss", WIDTH, 3.6, paint)


def perplexity_figure(results: Sequence[PolicyResult], window: int) -> str:
    """Perplexity in ranges of positions, one line a policy, on logarithmic axes; the trained window is marked."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        values: list[float] = []
        last = max(result.tokens for result in results)
        for result, colour in zip(results, colours(results), strict=True):
            ranges = result.likelihood.ranges() if result.likelihood else []
            # The middle of a range as a logarithmic axis has it.
            middles = [math.sqrt(max(each.start, 16) * each.end) for each in ranges]
            values += [each.perplexity for each in ranges]
            _line(axes, middles, [each.perplexity for each in ranges], colour, result.name)
        axes.set_yscale("log")
        _number_axis(axes, min(values), max(values))
        token_axis(axes, 24, last)
        axes.axvline(window, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.text(window, 1.02, "trained window", color=MUTED, fontsize=9, transform=axes.get_xaxis_transform())
        axes.set_xlabel("position in the text, tokens")
        axes.set_ylabel("perplexity")
        _legend(axes)

    return draw("perplexity", WIDTH, 3.6, paint)


def pace_figure(results: Sequence[PolicyResult]) -> str:
    """Milliseconds of reading a thousand tokens, against where they stand."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        values: list[float] = []
        for result, colour in zip(results, colours(results), strict=True):
            grouped = _groups(result.chunks, PACE_POINTS)
            positions = [(group[0].start + group[-1].end) / 2 for group in grouped]
            paces = [
                1e6 * sum(chunk.seconds for chunk in group) / max(1, group[-1].end - group[0].start)
                for group in grouped
            ]
            values += paces
            _line(axes, positions, paces, colour, result.name)
        last = max(result.tokens for result in results)
        first = min(result.chunks[0].end for result in results) / 2
        token_axis(axes, min(first, last / 2), last)
        axes.set_yscale("log")
        _number_axis(axes, min(values), max(values))
        axes.set_xlabel("position in the text, tokens")
        axes.set_ylabel("ms for 1,000 tokens")
        _legend(axes)

    return draw("pace", WIDTH, 3.2, paint)


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, name: str) -> None:
    axes.plot(x, y, color=colour, label=plain(name), marker="o" if len(x) == 1 else None, markersize=4)


def _number_axis(axes: Axes, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    middle = math.sqrt(low * high)
    # Less than a doubling would have no tick, and noise would look like a change.
    low, high = min(low / 1.1, middle / 2), max(high * 1.1, middle * 2)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high / low < 300 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, labelcolor=INK, fontsize=9.5)


def _rows(stages: Sequence[tuple[str, int]], last: int) -> list[int]:
    """The line on which each stage's name is written: the lowest where it does not run into another."""
    ends: list[float] = []
    rows = []
    for name, first in stages:
        row = next((row for row, end in enumerate(ends) if end <= first), len(ends))
        ends[row : row + 1] = [first + LETTER * (len(name) + 1) * last]
        rows.append(row)
    return rows


def _parts(losses: Sequence[tuple[int, float]], borders: Sequence[int]) -> list[list[tuple[int, float]]]:
    """The losses of each stage; a stage's loss is another one's, so no line joins them."""
    edges = [-math.inf, *borders, math.inf]
    parts = [[pair for pair in losses if low <= pair[0] < high] for low, high in pairwise(edges)]
    return [part for part in parts if part]


def _groups(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    each = -(-len(items) // most)
    return [items[first : first + each] for first in range(0, len(items), each)]
