"""The page of a comparison of variants: its table, curves of the loss, bars of speed and memory, what failed.

Knows outcomes and how they become figures. Leaves looks to `variants.html.jinja` and `page.css`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handscroll.measure.report.template import render
from handscroll.measure.report.variants_curves import variant_bars, variant_curves
from handscroll.measure.variants import Trained, failures, outcomes, variants_table
from handscroll.text.files import write_files

PAGE = "index.html"


def write_variants(folder: Path, runs: Sequence[Trained], settings: Mapping[str, Any]) -> None:
    """Writes index.html, which appears whole or not at all."""
    write_files(folder, {PAGE: [render_variants(runs, settings)]})


def render_variants(runs: Sequence[Trained], settings: Mapping[str, Any]) -> str:
    """The page as HTML."""
    found = outcomes(runs)
    return render(
        "variants.html.jinja",
        table=variants_table(found),
        failures=failures(found),
        has_seeds=any(len(each.runs) > 1 for each in found),
        curves=variant_curves(found) if any(run.curve for run in runs) else None,
        speed=variant_bars(found, "tokens_per_second"),
        memory=variant_bars(found, "peak_bytes", "training_bytes"),
        settings=json.dumps(dict(settings), ensure_ascii=False, indent=2),
    )
