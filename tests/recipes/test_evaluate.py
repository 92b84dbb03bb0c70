"""A battery as a run: it writes after each cell, and goes on where it was stopped to the same results."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handscroll.kvcache import Full, SlidingWindow
from handscroll.measure.battery import Battery
from handscroll.measure.suites import find_suite
from handscroll.model import ModelConfig, Transformer
from handscroll.recipes import evaluate as recipe
from handscroll.recipes.evaluate import evaluate
from handscroll.recipes.events import Advance, Event, Finished, Said
from handscroll.recipes.folders import save_folder
from handscroll.text import Tokenizer
from handscroll.text.chronicle import write_document

BATTERY = Battery(
    ("number", "perplexity"),
    (600, 900),
    (Full(), SlidingWindow(64)),
    {"languages": ("en",), "questions": 2, "max_new_tokens": 2, "seed": 3},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = Tokenizer.train([write_document(seed=5, size=4000).text], 320)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        width=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_width=8,
        feedforward_width=24,
        max_positions=128,
    )
    path = tmp_path_factory.mktemp("saved") / "model"
    save_folder(Transformer(config, seed=3), tokenizer, path)
    return str(path)


def figures(result: dict[str, Any]) -> list[Any]:
    """All that doesn't depend on the clock."""
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in result["records"]]


def finish(events: Iterator[Event]) -> dict[str, Any]:
    *_, last = events
    assert isinstance(last, Finished)
    return last.result


def test_a_run_that_was_stopped_goes_on_to_the_same_results(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finish(evaluate(folder, BATTERY, tmp_path / "whole"))
    out = tmp_path / "stopped"
    events = evaluate(folder, BATTERY, out)
    for _ in events:
        path = out / "results.json"
        if path.is_file() and len(json.loads(path.read_text(encoding="utf-8"))["records"]) == 3:
            break
    events.close()  # type: ignore[attr-defined]
    assert not (out / "index.html").exists()

    measured = []
    suites = {name: find_suite(name) for name in BATTERY.suites}

    def counted(name: str) -> Any:
        def cells(subject: Any, part: Any, policies: Any, options: Any) -> Any:
            measured.extend((name, options.tokens, policy) for policy in policies)
            return suites[name].cells(subject, part, policies, options)

        stand_in = dataclasses.replace(suites[name])
        object.__setattr__(stand_in, "cells", cells)
        return stand_in

    monkeypatch.setattr("handscroll.measure.battery.find_suite", counted)
    events = evaluate(folder, BATTERY, out)
    first = next(events)
    assert isinstance(first, Said)
    assert "holds 3 of 8 results" in first.text
    resumed = finish(events)
    assert len(measured) == 5
    assert figures(resumed) == figures(whole)
    assert (out / "index.html").is_file()
    assert not list(out.glob(".*"))


def test_a_finished_run_loads_no_model_again(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = finish(evaluate(folder, BATTERY, tmp_path))
    monkeypatch.delattr(recipe, "load_folder")
    assert finish(evaluate(folder, BATTERY, tmp_path)) == first


def test_results_of_other_arguments_are_refused(folder: str, tmp_path: Path) -> None:
    short = dataclasses.replace(BATTERY, suites=("perplexity",), lengths=(100,), options={"seed": 3})
    finish(evaluate(folder, short, tmp_path))
    longer = dataclasses.replace(short, lengths=(100, 200), options={"seed": 4})
    with pytest.raises(
        ValueError, match=r"made with lengths \[100\], not \[100, 200\]; options .*'seed': 3.*another --out"
    ):
        next(evaluate(folder, longer, tmp_path))
    (tmp_path / "results.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="is not what an evaluation has written"):
        next(evaluate(folder, short, tmp_path))


def test_progress_ends_at_its_total_and_counts_tokens(folder: str) -> None:
    events = [event for event in evaluate(folder, BATTERY, None) if isinstance(event, Advance)]
    done = [event.done for event in events]
    assert done == sorted(done)
    assert {event.total for event in events} == {2 * 2 * (600 + 900)}
    assert done[-1] == events[-1].total
