"""Matplotlib figures as SVG that lives inside a page: colours and fonts are the page's own, in light and in dark.

Figures are drawn in placeholder colours, which then become CSS variables of the page. Text stays text. Knows nothing of
what is drawn; that is in `figures.py`.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.8  # inches: as wide as the text of the page

INK, MUTED, GRID, PAPER = "#010a01", "#010a02", "#010a03", "#010a04"
SERIES = ("#010b01", "#010b02", "#010b03", "#010b04", "#010b05", "#010b06")
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--paper"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "hatch.color": PAPER,
    "hatch.linewidth": 1.4,
}


def draw(name: str, width: float, height: float, paint: Callable[[Figure], None]) -> str:
    """The SVG of what `paint` puts on a figure of width x height inches; `name` keeps its ids apart from others'."""
    # Here and not above: importing matplotlib takes longer than all else of the package, and few runs draw.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return inline(written.getvalue(), name)


def inline(svg: str, name: str) -> str:
    """An SVG file as part of a page: no prologue, no metadata, ids of its own, the page's colours, any width."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    prefix = f"f{hashlib.sha256(name.encode()).hexdigest()[:6]}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(
        r'<svg ([^>]*?)width="([\d.]+)pt" height="[\d.]+pt"', r'<svg \1 style="max-width: \2pt"', svg, count=1
    )


def tokens_label(tokens: float) -> str:
    """Positions on an axis: 500, 1.5k, 1M; powers of two as people call them: 8k, 16k, 131k."""
    is_power = tokens == int(tokens) and int(tokens) & (int(tokens) - 1) == 0
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens // size:.0f}{unit}" if is_power else f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"


def token_axis(axes: Axes, first: float, last: float) -> None:
    """A logarithmic axis of positions with ticks at powers of two that leave room for their labels."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    powers = [2**power for power in range(3, 40) if first <= 2**power <= last * 1.01]
    axes.xaxis.set_major_locator(FixedLocator(powers[:: -(-len(powers) // 9)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: tokens_label(tokens)))
    axes.set_xlim(first, last)


def plain(text: str) -> str:
    """Text for a figure, whose font is only sure to have Latin letters."""
    return text.encode("latin-1", "replace").decode("latin-1")


def standalone(svg: str) -> str:
    """A figure of a page as a file of its own, in the page's colours by day: not all viewers know CSS's variables."""
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"(--[\w-]+): ([^;]+);", css[: css.index("}")]))
    return re.sub(r"var\((--[\w-]+)\)", lambda found: colours[found[1]], svg) + "\n"
