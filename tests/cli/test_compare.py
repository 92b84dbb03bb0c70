"""`handscroll compare`: runs in processes of their own, a table, a page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_variants_are_compared_and_shown(run: Run, recipe: Path) -> None:
    budget = ["train.steps=3", "--vary", "model.norm=rms,layer"]
    done = run("compare", "recipe.yaml", *budget, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    out = Path(result["out"])
    assert [each["variant"] for each in result["variants"]] == ["norm=rms", "norm=layer"]
    assert all(each["peak_bytes"]["mean"] > 1e7 for each in result["variants"])
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "norm=layer" in page and page.count("<svg") >= 3
    assert (out / "variants" / "norm=layer" / "model" / "config.json").is_file()
    again = run("compare", "recipe.yaml", *budget)
    assert again.code == 0
    assert "training loss" in again.out and "norm=layer" in again.out


def test_mistakes_are_one_line(run: Run, recipe: Path) -> None:
    for words, reason in (
        (["--vary", "model.haeds=2,4"], "heads"),
        (["--vary", "model.heads=2,4", "--seeds", "a"], "--seeds a"),
        ([], "nothing to compare"),
    ):
        done = run("compare", "recipe.yaml", *words)
        assert done.code == 2
        assert reason in done.err and len(done.err.strip().splitlines()) == 1
