"""The report's heat maps: recall against the depth of the fact and the length of the text, one map a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from handscroll.measure.recall import DEPTH_BINS, recall_grid
from handscroll.measure.report.drawing import MUTED, SERIES, WIDTH, draw, plain, tokens_label
from handscroll.measure.results import PolicyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colour of right replies, whatever the policy.
RIGHT = SERIES[3]
# The row over all depths stands a little apart, in rows.
ALL_APART = 0.15


def recall_figure(results: Sequence[PolicyResult]) -> str:
    """A heat map a policy: lengths side by side, depth from the text's beginning (top) to its end."""
    asked = [result for result in results if has_recall(result)]
    grids = [recall_grid(result.outcomes) for result in asked]
    cells = sum(len(grid.columns) - 1 for grid in grids)

    def paint(figure: Figure) -> None:
        shapes = [len(grid.columns) - 1 for grid in grids]
        axes_list = figure.subplots(
            1, len(asked), squeeze=False, gridspec_kw={"width_ratios": [max(1, shape) for shape in shapes]}
        )[0]
        for place, (result, grid, axes) in enumerate(zip(asked, grids, axes_list, strict=True)):
            _heat_map(axes, [grid.column(name) for name in grid.columns[1:]])
            lengths = [int(name.replace(",", "")) for name in grid.columns[1:]]
            axes.set_xticks([number + 0.5 for number in range(len(lengths))], [tokens_label(each) for each in lengths])
            labels = [name if place == 0 else "" for name in grid.column("depth")]
            places = [number + 0.5 for number in range(DEPTH_BINS)]
            axes.set_yticks([*places, DEPTH_BINS + 0.5 + ALL_APART], labels)
            axes.set_title(plain(result.name), pad=8)
            if place == 0:
                axes.set_ylabel("depth of the fact in the text")
        figure.supxlabel("tokens read when the question was asked", color=MUTED, fontsize=10)

    width = min(WIDTH, 2.2 + 1.05 * cells + 0.5 * len(asked))
    return draw("recall", width, 4.4, paint)


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
