"""`handscroll train`: in several processes, as a dry run, as a sweep; its report, and what doesn't go together."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from handscroll.recipes.train import train
from handscroll.training.log import read_log

Run = Callable[..., Any]


def test_two_processes_train_as_one(run: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same losses up to the order of sums, dropout included; the first writes; and one process can go on."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    changes = ["train.micro_batches=2", "train.dropout={attention: 0.1, residual: 0.1}", "train.keep=3"]
    changes += ["data.held_out=0.2", "evaluation.every=4"]
    expected = [*train("recipe.yaml", overrides=[*changes, "out=one"])]
    assert run("train", "recipe.yaml", *changes, "--processes", "2").code == 0
    out = recipe.parent / "run"

    def check() -> None:
        log = read_log(out)
        assert [row["step"] for row in log] == [*range(1, 13)]
        for row, progress in zip(log, expected, strict=True):
            assert row["loss"] == pytest.approx(progress.loss, rel=1e-5)
            assert row["grad_norm"] == pytest.approx(progress.grad_norm, rel=1e-4)
            assert row["tokens"] == progress.tokens
        found = [row["evaluation"]["loss"] for row in log if "evaluation" in row]
        assert found == pytest.approx(
            [row["evaluation"]["loss"] for row in read_log(Path("one")) if "evaluation" in row]
        )
        whole = load_file("one/model/model.safetensors")
        for name, tensor in load_file(out / "model" / "model.safetensors").items():
            assert (tensor - whole[name]).norm() <= 1e-3 * whole[name].norm()

    check()
    for name in ("step-000010", "step-000012", "model"):
        shutil.rmtree(out / name, ignore_errors=True)
    assert run("train", "recipe.yaml", *changes, "--resume").code == 0
    check()


def test_what_does_not_go_together_is_refused(run: Run, recipe: Path) -> None:
    for options, says in (
        (["--processes", "2"], "train.micro_batches=1 can't be divided among 2 processes: give a multiple, such as"),
        (["--dry-run", "--find-lr"], "--dry-run and --find-lr don't go together"),
        (["--resume", "--find-lr"], "--find-lr and --resume don't go together"),
        (["--dry-run", "--processes=2"], "--dry-run takes one process"),
        (["--no-measure"], "--no-measure belongs to --dry-run"),
    ):
        ran = run("train", "recipe.yaml", *options)
        assert ran.code == 2
        assert says in ran.err
    assert not (recipe.parent / "run").exists()


def test_a_dry_run_is_printed(run: Run, recipe: Path) -> None:
    ran = run("train", "recipe.yaml", "--dry-run", "--no-measure")
    assert ran.code == 0
    assert "steps       12 of 128 tokens: 1,536 tokens" in ran.out
    assert "time" not in ran.out
    result = json.loads(run("train", "recipe.yaml", "--dry-run", "--json").out)
    assert result["seconds"] > 0
    assert not (recipe.parent / "run").exists()


def test_a_sweep_suggests_rates(run: Run, recipe: Path) -> None:
    ran = run("train", "recipe.yaml", "--find-lr")
    assert ran.code == 0
    assert "The loss falls fastest at a learning rate of" in ran.out
    assert (recipe.parent / "run" / "find-lr.svg").read_text().startswith("<svg")


def test_the_best_model_and_the_report_are_named(run: Run, recipe: Path) -> None:
    ran = run("train", "recipe.yaml", "data.held_out=0.2", "evaluation.every=4", "train.steps=4")
    assert "It is that of step 4, the best of 1 evaluations: loss" in ran.out
    assert "one page, open it in a browser" in ran.out
    assert "<svg" in (recipe.parent / "run" / "report.html").read_text()
    again = json.loads(run("train", "recipe.yaml", "data.held_out=0.2", "train.steps=4", "out=b", "--json").out)
    assert (again["best"]["step"], again["report"]) == (4, "b/report.html")
