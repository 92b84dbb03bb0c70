"""The page of a battery: its tables, heat maps of score against depth and length, and what a byte buys.

Knows records and how they become figures. Leaves looks to `battery.html.jinja` and `page.css`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handscroll.measure.battery_tables import battery_tables, has_figure, mean_scores, policies_of
from handscroll.measure.report.drawing import standalone
from handscroll.measure.report.heat import HeatMap, heat_figure
from handscroll.measure.report.quality import Quality, quality_figure
from handscroll.measure.report.template import render
from handscroll.measure.suites.depths import shares
from handscroll.measure.suites.record import Record
from handscroll.text.files import write_files

PAGE = "index.html"
# The figure over all suites together.
ALL = "all"


def write_battery(folder: Path, records: Sequence[Record], settings: Mapping[str, Any]) -> list[str]:
    """Writes index.html and each of its figures as an SVG file; returns the names of the files."""
    figures = battery_figures(records)
    files = {PAGE: [render_battery(records, figures, settings)]}
    files |= {name: [standalone(svg)] for name, svg in figures.items()}
    write_files(folder, files)
    return list(files)


def battery_figures(records: Sequence[Record]) -> dict[str, str]:
    """The figures as parts of a page, by the names of their files."""
    figures = {}
    for suite, task in dict.fromkeys((each.cell.suite, each.cell.task) for each in records):
        here = [each for each in records if (each.cell.suite, each.cell.task) == (suite, task)]
        if maps := heat_maps(here):
            name = f"heat-{suite}.svg" if suite == task else f"heat-{suite}-{task}.svg"
            figures[name] = heat_figure(name, maps)
    suites = dict.fromkeys(each.cell.suite for each in records if has_figure(each, "score"))
    for suite in suites:
        if qualities := quality_curves([each for each in records if each.cell.suite == suite]):
            figures[f"quality-{suite}.svg"] = quality_figure(f"quality-{suite}.svg", qualities)
    if len(suites) > 1 and (qualities := quality_curves(records)):
        figures[f"quality-{ALL}.svg"] = quality_figure(f"quality-{ALL}.svg", qualities)
    return figures


def heat_maps(records: Sequence[Record]) -> list[HeatMap]:
    """One map for each policy, over the languages of one task; none for policies whose questions have no depth."""
    maps = []
    for policy in policies_of(records):
        by_length: dict[int, list[list[float]]] = {}
        for each in records:
            counted = each.found.detail.get("by_depth", []) if each.cell.policy == policy else []
            if any(number for _, number in counted):
                before = by_length.get(each.cell.length, [[0.0, 0.0] for _ in counted])
                by_length[each.cell.length] = [
                    [score + more, number + others]
                    for (score, number), (more, others) in zip(before, counted, strict=True)
                ]
        if by_length:
            lengths = sorted(by_length)
            columns = []
            for length in lengths:
                overall = [sum(counts) for counts in zip(*by_length[length], strict=True)]
                columns.append(tuple(shares([*by_length[length], overall])))
            maps.append(HeatMap(policy, tuple(lengths), tuple(columns)))
    return maps


def quality_curves(records: Sequence[Record]) -> list[Quality]:
    """For each policy the mean score and the bytes held at every length at which it has all scores that others have."""
    means = {length: mean_scores(records, length) for length in sorted({each.cell.length for each in records})}
    curves = []
    for policy in policies_of(records):
        points = []
        for length, scores in means.items():
            found = [each for each in records if (each.cell.policy, each.cell.length) == (policy, length)]
            held = [each.found.device_bytes + each.found.host_bytes for each in found if has_figure(each, "score")]
            if policy in scores and max(held):
                points.append((length, max(held), scores[policy]))
        if points:
            curves.append(Quality(policy, tuple(points)))
    return curves


def render_battery(records: Sequence[Record], figures: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """The page as HTML."""
    tables = battery_tables(records)
    return render(
        "battery.html.jinja",
        settings=json.dumps(dict(settings), ensure_ascii=False, indent=2),
        tables=[(table, table.shown(), [table.is_numeric(column) for column in table.columns]) for table in tables],
        qualities=_titled(figures, "quality-"),
        heats=_titled(figures, "heat-"),
    )


def _titled(figures: Mapping[str, str], kind: str) -> list[tuple[str, str]]:
    """The figures of a kind with what they are about, which is the rest of their names."""
    return [
        (name.removeprefix(kind).removesuffix(".svg"), svg) for name, svg in figures.items() if name.startswith(kind)
    ]
