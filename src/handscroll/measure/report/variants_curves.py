"""Figures of a comparison of variants: loss against tokens and seconds, bars of speed and of memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from handscroll.measure.report.drawing import INK, MUTED, SERIES, WIDTH, draw, plain, tokens_label
from handscroll.measure.variants import FIGURES, Outcome, Trained

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Beyond the colours of a page a variant is told by its dashes.
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
# Before this share of a run losses are of what every model learns at once; they would press all else together.
EARLY = 0.05
LETTERS = 100


def variant_curves(found: Sequence[Outcome]) -> str:
    """Loss against tokens, and against seconds beside it; a line for each seed."""

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        for place, outcome in enumerate(found):
            colour, dashes = SERIES[place % len(SERIES)], DASHES[place // len(SERIES) % len(DASHES)]
            for number, run in enumerate(outcome.runs):
                label = plain(outcome.variant) if not number else None
                losses = [point.loss for point in run.curve]
                for axes, x in ((left, [p.tokens for p in run.curve]), (right, [p.seconds for p in run.curve])):
                    axes.plot(x, losses, color=colour, linestyle=dashes, linewidth=1.4, label=label)
        _frame(left, [run for each in found for run in each.runs])
        left.set_xlabel("tokens")
        left.xaxis.set_major_formatter(lambda tokens, _: tokens_label(tokens))
        right.set_xlabel("seconds")
        left.set_ylabel("loss, nats a token")
        columns = max(1, LETTERS // (6 + max(len(each.variant) for each in found)))
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, labelcolor=INK, fontsize=9.5)

    return draw("variants-loss", WIDTH, 4.0, paint)


def variant_bars(found: Sequence[Outcome], figure: str, inner: str | None = None) -> str | None:
    """A bar a variant, the spread over seeds as a line; `inner` is the figure of a part of each bar.

    None where no variant has the figure.
    """
    means = [(each.variant, place, each.mean(figure)) for place, each in enumerate(found)]
    known = [(name, place, mean) for name, place, mean in means if mean is not None]
    if not known:
        return None
    show = FIGURES[figure].show

    def paint(canvas: Figure) -> None:
        axes = canvas.add_subplot()
        for row, (_, place, mean) in enumerate(known):
            colour = SERIES[place % len(SERIES)]
            part = found[place].mean(inner) if inner is not None else None
            axes.barh(-row, mean.mean, height=0.62, color=colour, alpha=0.35 if part is not None else 1.0)
            if part is not None:
                axes.barh(-row, part.mean, height=0.62, color=colour)
            if mean.spread:
                axes.errorbar(mean.mean, -row, xerr=mean.spread, color=INK, capsize=3, linewidth=1)
            end = mean.mean + (mean.spread or 0.0)
            axes.annotate(
                show(mean.mean), (end, -row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9.5
            )
        # Room for the numbers behind the longest bar.
        axes.set_xlim(0, 1.25 * max(mean.mean + (mean.spread or 0.0) for _, _, mean in known))
        axes.set_yticks([-row for row in range(len(known))], [plain(name) for name, _, _ in known], color=INK)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0, labelbottom=False)
        axes.set_title(FIGURES[figure].label, color=MUTED, fontsize=10)

    return draw(f"variants-{figure}", WIDTH / 2, 0.7 + 0.34 * len(known), paint)


def _frame(axes: Axes, runs: Sequence[Trained]) -> None:
    """From a little below the lowest loss to the highest after the beginning; what is above is cut."""
    late = [point.loss for run in runs for point in run.curve if point.tokens >= EARLY * run.curve[-1].tokens]
    if late and max(late) > min(late):
        # A variant that goes astray must not decide how the others are seen: no more than where all of them began.
        first = max(run.curve[0].loss for run in runs if run.curve)
        high, low = min(max(late), first), min(late)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
