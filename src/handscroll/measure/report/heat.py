"""The report's heat maps: recall against the depth of the fact and the length of the text, one map a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from handscroll.measure.recall import DEPTH_BINS, depth_label, recall_grid
from handscroll.measure.report.drawing import MUTED, SERIES, WIDTH, draw, plain, tokens_label
from handscroll.measure.results import PolicyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colour of right replies, whatever the policy.
RIGHT = SERIES[3]
# The row over all depths stands a little apart, in rows.
ALL_APART = 0.15


class HeatMap(NamedTuple):
    """One policy's: for each length, the share at each depth and, last, over all depths; None where nobody asked."""

    title: str
    lengths: tuple[int, ...]
    columns: tuple[tuple[object, ...], ...]


def recall_figure(results: Sequence[PolicyResult]) -> str:
    """Recall of each result that has any."""
    maps = []
    for result in results:
        if has_recall(result):
            grid = recall_grid(result.outcomes)
            lengths = tuple(int(name.replace(",", "")) for name in grid.columns[1:])
            maps.append(HeatMap(result.name, lengths, tuple(tuple(grid.column(name)) for name in grid.columns[1:])))
    return heat_figure("recall", maps)


def heat_figure(name: str, maps: Sequence[HeatMap]) -> str:
    """The maps beside each other: lengths side by side, depth from the text's beginning (top) to its end."""

    def paint(figure: Figure) -> None:
        widths = [max(1, len(each.lengths)) for each in maps]
        axes_list = figure.subplots(1, len(maps), squeeze=False, gridspec_kw={"width_ratios": widths})[0]
        for place, (each, axes) in enumerate(zip(maps, axes_list, strict=True)):
            _heat_map(axes, each.columns)
            ticks = [number + 0.5 for number in range(len(each.lengths))]
            axes.set_xticks(ticks, [tokens_label(length) for length in each.lengths])
            labels = [*map(depth_label, range(DEPTH_BINS)), "all"]
            places = [number + 0.5 for number in range(DEPTH_BINS)]
            axes.set_yticks([*places, DEPTH_BINS + 0.5 + ALL_APART], labels if place == 0 else [""] * len(labels))
            axes.set_title(plain(each.title), pad=8)
            if place == 0:
                axes.set_ylabel("depth of the fact in the text")
        figure.supxlabel("tokens read when the question was asked", color=MUTED, fontsize=10)

    cells = sum(len(each.lengths) for each in maps)
    width = min(WIDTH, 2.2 + 1.05 * cells + 0.5 * len(maps))
    return draw(name, width, 4.4, paint)


def has_recall(result: PolicyResult) -> bool:
    """Whether questions were asked that are spread over the depth."""
    return any(not outcome.probe.is_extra for outcome in result.outcomes)


def _heat_map(axes: Axes, columns: Sequence[Sequence[object]]) -> None:
    from matplotlib.patches import Rectangle

    rows = DEPTH_BINS + 1
    for x, column in enumerate(columns):
        for y, share in enumerate(column):
            top = y + (ALL_APART if y == rows - 1 else 0)
            if not isinstance(share, int | float):
                axes.text(x + 0.5, top + 0.5, "·", ha="center", va="center", color=MUTED)
                continue
            # The paper shines through where recall is low, in the light and in the dark.
            axes.add_patch(Rectangle((x + 0.03, top + 0.05), 0.94, 0.9, color=RIGHT, alpha=0.06 + 0.64 * share, lw=0))
            weight = "bold" if y == rows - 1 else "normal"
            axes.text(x + 0.5, top + 0.5, f"{100 * share:.0f}", ha="center", va="center", fontsize=9, weight=weight)
    axes.set_xlim(0, max(1, len(columns)))
    axes.set_ylim(rows + ALL_APART, 0)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
