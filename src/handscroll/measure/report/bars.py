"""The report's bars: bytes of the cache and seconds of reading, on logarithmic axes, estimates hatched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from handscroll.measure.report.colours import colours
from handscroll.measure.report.drawing import INK, MUTED, WIDTH, draw, plain, tokens_label
from handscroll.measure.results import PolicyResult
from handscroll.model.footprint import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Bar(NamedTuple):
    """One bar: what it is, how much, in which colour, measured or estimated."""

    label: str
    size: float
    colour: str
    is_estimate: bool = False


def bytes_figure(results: Sequence[PolicyResult]) -> str:
    """Bytes of the cache at the end of reading: a bar for the device, one for the host, estimates hatched."""
    bars: list[Bar] = []
    for result, colour in zip(results, colours(results), strict=True):
        bars.append(Bar(f"{plain(result.name)}, device", result.device_bytes, colour))
        if result.host_bytes:
            bars.append(Bar(f"{plain(result.name)}, host", result.host_bytes, colour))
        if (guess := result.extrapolated) is not None:
            label = f"{plain(result.name)} at {tokens_label(guess.tokens)}, estimated"
            bars.append(Bar(label, guess.device_bytes + guess.host_bytes, colour, True))
    return _log_bars("bytes", bars, lambda size: readable(round(size)), "bytes of the cache")


def seconds_figure(results: Sequence[PolicyResult]) -> str:
    """Seconds of reading; estimates hatched."""
    bars: list[Bar] = []
    for result, colour in zip(results, colours(results), strict=True):
        bars.append(Bar(f"{plain(result.name)}, {tokens_label(result.tokens)} tokens", result.seconds, colour))
        if (guess := result.extrapolated) is not None:
            label = f"{plain(result.name)} at {tokens_label(guess.tokens)}, estimated"
            bars.append(Bar(label, guess.seconds, colour, True))
    return _log_bars("seconds", bars, lambda seconds: f"{seconds:,.3g} s", "seconds of reading")


def _log_bars(name: str, bars: Sequence[Bar], show: Callable[[float], str], label: str) -> str:
    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        sizes = [max(bar.size, 1e-9) for bar in bars]
        low, high = min(sizes) / 4, max(sizes)
        for place, (bar, size) in enumerate(zip(bars, sizes, strict=True)):
            look: dict[str, Any] = {"hatch": "////", "alpha": 0.6} if bar.is_estimate else {}
            axes.barh(-place, size - low, left=low, height=0.62, color=bar.colour, **look)
            axes.annotate(
                show(size), (size, -place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9.5
            )
        axes.set_xscale("log")
        # Room for the numbers behind the longest bar.
        axes.set_xlim(low, high * (high / low) ** 0.2)
        axes.set_yticks([-place for place in range(len(bars))], [bar.label for bar in bars], color=INK)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0, labelbottom=False, which="both")
        axes.set_title(f"{label}, logarithmic", color=MUTED, fontsize=10)

    return draw(name, WIDTH / 2, 0.7 + 0.34 * len(bars), paint)
