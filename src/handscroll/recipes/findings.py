"""What a quickstart found: result.json, what the report shows, and what to try next.

Only puts together what others measured. Leaves the page itself to `measure/report/`.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handscroll.measure import PolicyResult, ReportData
from handscroll.model import Transformer
from handscroll.model.footprint import parameter_count
from handscroll.recipes.comparison import Reading
from handscroll.recipes.curriculum import first_steps
from handscroll.recipes.plan import Plan


def make_result(
    settings: Mapping[str, Any],
    model: Transformer,
    reading: Reading,
    plan: Plan,
    results: Sequence[PolicyResult],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The content of result.json. `seconds` are those of each phase; reading times of the policies are added."""
    document = reading.document
    return {
        "policies": {str(result.policy["policy"]): result.summary() for result in results},
        "model": {"parameters": parameter_count(model.config), **dataclasses.asdict(model.config)},
        "document": {
            "tokens": len(reading.ids),
            "characters": len(document.text),
            "facts": len(document.facts),
            "languages": list(document.languages),
        },
        "training": {
            "steps": plan.steps,
            "share_of_curriculum": plan.factor,
            "stages": [stage.name for stage in plan.stages],
        },
        "settings": dict(settings),
        "seconds": {**seconds, **{str(result.policy["policy"]): result.seconds for result in results}},
    }


def make_report(
    result: Mapping[str, Any],
    reading: Reading,
    plan: Plan,
    results: Sequence[PolicyResult],
    log: Sequence[Mapping[str, Any]],
) -> ReportData:
    """All that the report shows."""
    return ReportData(
        results,
        result["settings"]["window"],
        reading.document.text,
        reading.spans,
        losses=[(row["step"], row["loss"]) for row in log],
        stages=first_steps(plan.stages),
        settings={name: result[name] for name in ("settings", "model", "document", "training")},
    )


def next_commands(
    out: Path, model: Path, document: Path, settings: Mapping[str, Any], results: Sequence[PolicyResult]
) -> tuple[str, ...]:
    """What to try next, ready for a shell: a question about the document, a longer text, one's own text."""
    outcomes = [outcome for outcome in results[-1].outcomes if not outcome.probe.is_extra]
    asked = next((outcome for outcome in outcomes if outcome.correct), outcomes[0])
    question = ["generate", str(model), asked.probe.question, "--file", str(document), "--chat"]
    longer = ["eval", str(model), "--tokens", str(2 * settings["tokens"]), "--policies", "sliding_window,block_memory"]
    own = ["quickstart", "--corpus", "YOUR.txt", "--out", f"{out}-own"]
    commands = [question, longer] if settings["corpus"] else [question, longer, own]
    return tuple(shlex.join(["handscroll", *command]) for command in commands)
