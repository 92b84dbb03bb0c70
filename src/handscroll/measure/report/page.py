"""From results to a page: the headline, what each section shows, and the file on disk.

Leaves looks to `page.html.jinja` and `page.css`. The template escapes all that comes from texts, models and users.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from handscroll.measure.probes import TokenSpans
from handscroll.measure.report import excerpts
from handscroll.measure.report.bars import bytes_figure, seconds_figure
from handscroll.measure.report.colours import colours
from handscroll.measure.report.curves import loss_figure, pace_figure, perplexity_figure
from handscroll.measure.report.drawing import VARIABLES
from handscroll.measure.report.heat import has_recall, recall_figure
from handscroll.measure.report.template import render
from handscroll.measure.results import PolicyResult, policy_table
from handscroll.model.footprint import readable
from handscroll.text.files import write_files


@dataclass(frozen=True)
class ReportData:
    """All that a report shows; what is empty is left out of it.

    `window`: the trained one, in tokens. `document` and `spans` are the text that was read and the place of its tokens.
    `losses` are (step, loss), `stages` the (name, first step) of each part of the training, in order.
    """

    results: Sequence[PolicyResult]
    window: int
    document: str = ""
    spans: TokenSpans | None = None
    losses: Sequence[tuple[int, float]] = ()
    stages: Sequence[tuple[str, int]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    title: str = "Reading far past the window"


class Tile(NamedTuple):
    """A figure to be seen first: its value, and what it is."""

    value: str
    label: str


def write_report(path: str | Path, data: ReportData) -> None:
    """Writes the page; it appears whole or not at all. ValueError for a report without results."""
    path = Path(path)
    write_files(path.parent, {path.name: [render_report(data)]})


def render_report(data: ReportData) -> str:
    """The page as HTML."""
    if not data.results:
        raise ValueError("there is nothing to report: measure at least one policy first")
    results, main = list(data.results), main_result(data.results)
    others = [result for result in results if result is not main]
    predicted = [result for result in results if result.likelihood and result.likelihood.tokens]
    series = [VARIABLES[colour] for colour in colours(results)]
    table = policy_table(results)
    return render(
        "page.html.jinja",
        data=data,
        headline=headline(data),
        tiles=tiles(data),
        main=main,
        table=table,
        rows=list(zip(table.shown(), table.records(), strict=True)),
        numeric=[table.is_numeric(column) for column in table.columns],
        legend=list(zip((result.name for result in results), series, strict=True)),
        has_estimates=any(result.extrapolated for result in results),
        recall=recall_figure(results) if any(map(has_recall, results)) else "",
        perplexity=perplexity_figure(predicted, data.window) if predicted else "",
        pace=pace_figure(results),
        bytes=bytes_figure(results),
        seconds=seconds_figure(results),
        loss=loss_figure(data.losses, data.stages) if data.losses else "",
        questions=excerpts.choose(main, others, data.document, data.spans),
        settings=json.dumps(dict(data.settings), ensure_ascii=False, indent=2, default=str) if data.settings else "",
    )


def main_result(results: Sequence[PolicyResult]) -> PolicyResult:
    """Whom the report is about: among those that read furthest, the policy with the best recall beyond the window."""
    furthest = max(result.tokens for result in results)
    return max(
        (result for result in results if result.tokens == furthest),
        key=lambda result: (result.recall_beyond_window.share or 0, result.recall.share or 0),
    )


def headline(data: ReportData) -> str:
    """One sentence with the figures that matter."""
    main = main_result(data.results)
    times = main.tokens / data.window
    size = f"{main.tokens:,} tokens" + (f" ({len(data.document):,} characters)" if data.document else "")
    read = f"A model trained on windows of {data.window:,} tokens read {size}"
    if times >= 2:
        read += f", {times:,.0f} times its window"
    if main.recall.share is None:
        return f"{read}, with {main.name}."
    said = [f"with {main.name} it answered {_percent(main.recall.share)} of {main.recall.asked} questions about them"]
    for other in data.results:
        if other is not main and other.tokens == main.tokens and other.recall.share is not None:
            said.append(f"with {other.name} {_percent(other.recall.share)}")
    return f"{read}; " + ", ".join(said) + "."


def tiles(data: ReportData) -> list[Tile]:
    """The figures of the main policy, and what the full cache would take where that was estimated."""
    main = main_result(data.results)
    shown = []
    if main.recall.share is not None:
        shown.append(
            Tile(_percent(main.recall.share), f"of {main.recall.asked} questions answered right with {main.name}")
        )
    shown.append(Tile(f"{main.tokens:,}", f"tokens read, after a training on {data.window:,} at a time"))
    shown.append(Tile(f"{main.attended:,}", "keys at most that a query attends to, per kv head"))
    guess = next((result.extrapolated for result in data.results if result.extrapolated), None)
    beside = f", {readable(main.host_bytes)} in the host's archive" if main.host_bytes else ""
    if guess is not None and guess.seconds > main.seconds:
        shown.append(
            Tile(
                f"{main.seconds:,.0f} s",
                f"to read it all, {main.tokens / max(1e-9, main.seconds):,.0f} tokens a second; "
                f"a full cache would take about {guess.seconds:,.0f} s",
            )
        )
    else:
        speed = f"{main.tokens / max(1e-9, main.seconds):,.0f} tokens a second"
        shown.append(Tile(f"{main.seconds:,.0f} s", f"to read it all, {speed}"))
    shown.append(Tile(readable(main.device_bytes), f"held on the device{beside}"))
    return shown


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
