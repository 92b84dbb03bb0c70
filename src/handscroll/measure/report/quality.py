"""What a byte buys: the score of each policy against the bytes that it holds, one point a length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from handscroll.measure.report.colours import policy_colours
from handscroll.measure.report.drawing import INK, MUTED, WIDTH, draw, plain, tokens_label
from handscroll.model.footprint import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE_TICKS = 6


class Quality(NamedTuple):
    """One policy at several lengths: (tokens, bytes on device and host together, score from 0 to 1), shortest first."""

    policy: str
    points: tuple[tuple[int, int, float], ...]


def quality_figure(name: str, qualities: Sequence[Quality]) -> str:
    """A line a policy, its points marked with the length; bytes are on a logarithmic axis."""

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        axes = figure.add_subplot()
        shown = policy_colours([each.policy.split()[0] for each in qualities])
        for each, colour in zip(qualities, shown, strict=True):
            held = [size for _, size, _ in each.points]
            axes.plot(held, [score for _, _, score in each.points], color=colour, marker="o", label=plain(each.policy))
            for tokens, size, score in each.points:
                label = tokens_label(tokens)
                axes.annotate(label, (size, score), xytext=(4, 5), textcoords="offset points", fontsize=8, color=MUTED)
        sizes = [size for each in qualities for _, size, _ in each.points]
        axes.set_xscale("log", base=2)
        axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=SIZE_TICKS))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: readable(round(size))))
        axes.set_ylim(-0.03, 1.08)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{100 * score:.0f} %"))
        axes.set_xlabel("bytes of the cache, device and host together")
        axes.set_ylabel("mean score")
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, labelcolor=INK, fontsize=9.5)

    return draw(name, WIDTH, 3.6, paint)
