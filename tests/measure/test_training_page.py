"""The page of a training run: its figures at the end, its curves, and nothing that is loaded or run."""

from pathlib import Path
from typing import Any

import pytest

from handscroll.measure.report.training_page import TrainingReport, render_training_report, write_training_report


def log(steps: int, total: int = 900, every: int | None = None) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, steps + 1):
        row: dict[str, Any] = {
            "step": step,
            "steps": total,
            "loss": 1 + 4 / step,
            "grad_norm": 2.0,
            "seconds": step / 2,
        }
        row |= {"tokens": 100 * step, "tokens_per_second": 200.0, "learning_rate": 1e-3}
        if every and step % every == 0:
            row["evaluation"] = {"step": step, "loss": 2 + abs(step - 600) / 600, "perplexity": 7.5, "is_best": False}
        rows.append(row)
    return rows


def test_the_page_says_how_it_went() -> None:
    page = render_training_report(TrainingReport(log(900, every=300), 12345, "out: <run> & more", saved=600))
    assert "12,345 parameters learnt from 90,000 tokens in 900 steps; the model is that of step 600" in page
    for value in ("1.004", "2.000", "7.50", "450 s", "out: &lt;run&gt; &amp; more"):
        assert value in page
    assert page.count("<svg") == 2
    for label in ("evaluation", "loss, nats a token", "learning rate", "gradient norm", "tokens/s"):
        assert label in page
    assert "<script" not in page
    assert "http-equiv" in page
    assert "src=" not in page.replace("default-src", "").replace("style-src", "").replace("img-src", "")


def test_what_the_objective_told_has_curves() -> None:
    rows = [
        {**row, "terms": {"likelihood": 2.0, "balance": 2.1}, "metrics": {"busiest_expert": 1.5}} for row in log(30)
    ]
    page = render_training_report(TrainingReport(rows, 1, ""))
    assert page.count("<svg") == 3
    for label in ("What the objective told", "likelihood", "balance", "busiest expert"):
        assert label in page
    plain = render_training_report(TrainingReport([{**row, "terms": {"likelihood": 2.0}} for row in log(30)], 1, ""))
    assert "What the objective told" not in plain


def test_a_run_that_ended_early_and_one_of_a_single_step(tmp_path: Path) -> None:
    assert "in 30 steps of 900." in render_training_report(TrainingReport(log(30), 1, ""))
    write_training_report(tmp_path / "run" / "report.html", TrainingReport(log(1, 1), 1, ""))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match="the run has taken no step"):
        render_training_report(TrainingReport([], 1, ""))
