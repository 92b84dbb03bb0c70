"""Comparisons: which variants there are, one budget for all, runs that equal `train`, resuming, and what fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handscroll.measure.variants import outcomes
from handscroll.recipes.compare import compare
from handscroll.recipes.events import Advance, Finished, Said
from handscroll.recipes.reading import read_recipe
from handscroll.recipes.schema import Recipe
from handscroll.recipes.train import train
from handscroll.recipes.variant_run import Ended, Stepped, memory, train_here
from handscroll.recipes.variants import Choice, make_variants, parse_choice


def finished(events: Iterator[Any]) -> dict[str, Any]:
    last = [*events][-1]
    assert isinstance(last, Finished)
    return last.result


@pytest.fixture(autouse=True)
def _no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handscroll.recipes.compare.write_variants", lambda out, runs, settings: None)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("model.heads=2,4", Choice("model.heads", ("2", "4"))),
        ("optimizer={name: adamw},{name: muon}", Choice("optimizer", ("{name: adamw}", "{name: muon}"))),
        ("a.b=[1, 2], '3,4' ,x", Choice("a.b", ("[1, 2]", "'3,4'", "x"))),
    ],
)
def test_commas_within_brackets_and_quotes_part_nothing(text: str, choice: Choice) -> None:
    assert parse_choice(text) == choice


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model.heads", "write KEY=VALUE,VALUE"),
        ("model.heads=", "a value is empty"),
        ("model.heads=2,,4", "a value is empty"),
        ("model.heads=2,2", "2 is given twice"),
        ("model={width: 2", "is never closed"),
        ("model=2]", "closes nothing"),
        ("train.seed=1,2", "--seeds 0,1"),
        ("train={steps: 2},{steps: 3}", "train.seed can't vary"),
        ("out=a,b", "--out names the folder"),
    ],
)
def test_choices_that_say_nothing_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_choice(text)


def test_variants_are_all_combinations_or_one_change_each(recipe: dict[str, Any]) -> None:
    choices = [Choice("model.heads", ("2", "4")), Choice("model.norm", ("rms", "layer"))]
    assert [each.name for each in make_variants(recipe, choices)] == [
        "heads=2, norm=rms",
        "heads=2, norm=layer",
        "heads=4, norm=rms",
        "heads=4, norm=layer",
    ]
    # What equals the recipe itself is not trained again.
    assert [each.name for each in make_variants(recipe, choices, each=True)] == ["recipe", "heads=4", "norm=layer"]


def test_longer_windows_get_fewer_steps(recipe: dict[str, Any]) -> None:
    made = make_variants(recipe, [Choice("train.window", ("8", "16", "32"))])
    assert [each.recipe.train.steps for each in made] == [48, 24, 12]


@pytest.mark.parametrize(
    ("choices", "overrides", "reason"),
    [
        ([Choice("model.haeds", ("2", "4"))], [], "variant haeds=2: .*did you mean"),
        ([Choice("model.norm", ("rms", "bath"))], [], "variant norm=bath: "),
        ([Choice("model.heads", ("2", "3"))], [], "variant heads=3: .*no multiple"),
        ([Choice("model.heads", ("2", "4"))], ["train.epochs=1", "train.steps=null"], "budget in steps"),
        ([Choice("model", ("{width: 8, layers: 1, heads: 1}",))], ["model.width=16"], "would be lost"),
        ([Choice("model.heads", ("2", "2.0"))], [], "variant heads=2.0: "),
    ],
)
def test_every_variant_is_checked_before_one_trains(
    recipe: dict[str, Any], choices: list[Choice], overrides: list[str], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        next(iter(compare(recipe, choices, overrides=overrides)))
    assert not Path(f"{recipe['out']}-compare").exists()


def test_more_runs_than_are_meant_are_refused(recipe: dict[str, Any]) -> None:
    choice = Choice("model.layers", ("1", "2", "3"))
    with pytest.raises(ValueError, match=r"3 variants with 2 seeds are 6 runs, more than 5: .*--most 6"):
        next(iter(compare(recipe, [choice], seeds=(0, 1), most=5)))
    with pytest.raises(ValueError, match="nothing to compare"):
        next(iter(compare(recipe, [])))


def test_a_run_is_what_train_does_and_is_not_done_twice(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["data"]["held_out"], recipe["evaluation"] = 0.2, {"every": 6}
    choice, calls = [Choice("model.norm", ("rms", "layer"))], []

    def runner(each: Recipe, tokens: Path) -> Iterator[Stepped | Ended]:
        calls.append(each)
        yield from train_here(each, tokens)

    result = finished(compare(recipe, choice, runner=runner))
    assert [each["variant"] for each in result["variants"]] == ["norm=rms", "norm=layer"]
    out = Path(result["out"])
    losses = [each.loss for each in train(recipe, overrides=[f"out={tmp_path / 'alone'}", "model.norm=layer"])]
    log = [json.loads(line) for line in (out / "variants" / "norm=layer" / "log.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in log] == pytest.approx(losses, rel=1e-6)
    # LayerNorm has a bias for each of its weights: two norms a layer, and the last one.
    rms, layer = (each["parameters"]["mean"] for each in result["variants"])
    assert layer - rms == 5 * 32
    assert all(each["perplexity"]["mean"] > 1 and each["bits_per_byte"]["mean"] > 0 for each in result["variants"])
    assert len({*map(str, (out / "tokenizers").iterdir())}) == 1
    assert len(calls) == 2
    again = finished(compare(recipe, choice, runner=runner))
    assert again == result
    assert len(calls) == 2
    with pytest.raises(ValueError, match="was made with another vary"):
        next(iter(compare(recipe, [Choice("model.norm", ("layer", "rms"))], runner=runner)))


def test_what_fails_is_told_and_tried_again_and_the_others_go_on(recipe: dict[str, Any]) -> None:
    choice, broken = [Choice("model.layers", ("1", "2"))], True

    def runner(each: Recipe, tokens: Path) -> Iterator[Stepped | Ended]:
        if each.model.layers == 1 and broken:  # type: ignore[union-attr]
            yield Ended({}, (), "the loss is nan")
        else:
            yield from train_here(each, tokens)

    events = [*compare(recipe, choice, runner=runner)]
    assert "layers=1, seed 3, failed: the loss is nan" in [each.text for each in events if isinstance(each, Said)]
    found = events[-1].result["variants"]  # type: ignore[union-attr]
    assert found[0]["failed"] == {3: "the loss is nan"} and "loss" in found[1]
    broken = False
    assert not any(each["failed"] for each in finished(compare(recipe, choice, runner=runner))["variants"])


def test_what_diverges_is_a_result(recipe: dict[str, Any], tmp_path: Path) -> None:
    checked = read_recipe(recipe, ["optimizer={name: adamw, learning_rate: 1e30}", "train.clip=0"])
    (*_, last) = train_here(checked, tmp_path / "tokens")
    assert isinstance(last, Ended)
    assert "loss nan" in last.failed or "loss inf" in last.failed
    assert last.figures == {}


def test_options_of_a_slot_vary(recipe: dict[str, Any]) -> None:
    recipe["train"]["steps"] = 1
    choice = parse_choice("model.attention=grouped_query,{kind: grouped_query, scale: 1.0}")
    plain, scaled = finished(compare(recipe, [choice], runner=train_here))["variants"]
    assert not plain["failed"] and not scaled["failed"]
    assert plain["loss"] != scaled["loss"]


def test_seeds_are_means_with_a_spread_and_progress_counts_all_runs(recipe: dict[str, Any]) -> None:
    events = [*compare(recipe, [Choice("model.layers", ("1", "2"))], seeds=(0, 1), runner=train_here)]
    bars = [each for each in events if isinstance(each, Advance)]
    assert {each.total for each in bars} == {4 * 12 * 4 * 32}
    assert [each.done for each in bars] == sorted(each.done for each in bars)
    for outcome in events[-1].result["variants"]:  # type: ignore[union-attr]
        assert outcome["loss"]["spread"] > 0
    assert len(outcomes([])) == 0


def test_memory_is_told_where_the_system_tells_it() -> None:
    held = memory("VmRSS")
    assert held is None or 1e7 < held <= (memory("VmHWM") or 0)
