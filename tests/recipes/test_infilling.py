"""Models that read in both directions, from a recipe to answers: trained, resumed, asked, and their blanks filled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from handscroll.recipes.ask import ask_anew
from handscroll.recipes.blanks import fill_blanks, joined, with_blanks
from handscroll.recipes.folders import Loaded, load_folder
from handscroll.recipes.generate import generate
from handscroll.recipes.read import begin
from handscroll.recipes.train import train
from handscroll.text import Tokenizer

NAMES, PLACES = ("Anna", "Berta", "Carl"), ("Rome", "Oslo", "Lima")
FACTS = [f"{name} lives in {place}." for name, place in zip(NAMES, PLACES, strict=True)]


def infilling(recipe: dict[str, Any], **objective: Any) -> dict[str, Any]:
    model = {"width": 32, "layers": 2, "heads": 2, "window": 32, "mask": "prefix", "position": "rope_2d"}
    return {**recipe, "model": model, "objective": {"name": "glm", **objective}}


def learnt(place: Path, rows: list[dict[str, str]], objective: Any, **model: Any) -> Loaded:
    """A model that has learnt these rows by heart."""
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) * 30, encoding="utf-8")
    recipe = {
        "model": {"width": 32, "layers": 2, "heads": 2, "window": 48, "mask": "prefix", **model},
        "tokenizer": {"vocab_size": 400},
        "data": {"files": [str(place / "rows.jsonl")]},
        "objective": objective,
        "optimizer": {"name": "muon", "learning_rate": 0.03, "rest": {"learning_rate": 0.01}},
        "train": {"steps": 60, "windows_per_step": 4},
        "out": str(place / "run"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("handscroll.recipes.train.write_training_report", lambda path, report: None)
        for _ in train(recipe):
            pass
    return load_folder(place / "run" / "model")


@pytest.fixture(scope="module")
def filler(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    rows = [{"text": fact} for fact in FACTS]
    objective = {"name": "glm", "mix": {"short": 2.0, "document": 1.0}}
    return learnt(tmp_path_factory.mktemp("filler"), rows, objective, position="rope_2d")


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    rows = [
        {"prompt": f"Where is {name}?", "completion": f" In {place}."}
        for name, place in zip(NAMES, PLACES, strict=True)
    ]
    return learnt(tmp_path_factory.mktemp("prefixed"), rows, "prefix_lm")


def test_blanks_are_filled_with_what_was_learnt(filler: Loaded) -> None:
    for fact in FACTS:
        name, place = fact.rstrip(".").split(" lives in ")
        text = f"{name} lives in [MASK]."
        (found,) = fill_blanks(*filler, text)
        assert found.is_whole
        assert (found.text.strip(), joined(filler.tokenizer, text, [found])) == (place, fact)
    two = "Anna <|mask|> in [MASK]."
    assert joined(filler.tokenizer, two, fill_blanks(*filler, two, beams=3)) == FACTS[0]


def test_a_text_is_continued(filler: Loaded) -> None:
    for name, fact in zip(NAMES, FACTS, strict=True):
        tokens = list(generate(*filler, name, max_new_tokens=12))
        assert name + "".join(token.text for token in tokens) == fact
        assert tokens[-1].ends == "stop token"


def test_what_can_not_be_filled(filler: Loaded, recipe: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"the text has no blank: write <.mask.> or \[MASK\]"):
        fill_blanks(*filler, "Anna lives in Rome.")
    with pytest.raises(ValueError, match=r"the text has \d+ tokens, and the model 48 positions: cut it"):
        fill_blanks(*filler, " ".join(FACTS) * 3 + "[MASK]")
    foreign = Tokenizer.train(FACTS, 300)
    with pytest.raises(
        ValueError, match=r"no control token for a document_mask, such as <.document_mask.> or \[gMASK\]"
    ):
        generate(filler.model, foreign, "Anna")
    assert not fill_blanks(*filler, "Anna lives in [MASK].", max_new_tokens=1)[0].is_whole


def test_masks_by_any_name() -> None:
    tokenizer = Tokenizer.train(FACTS, 320, roles=("mask", "sentence_mask", "document_mask", "span_start", "span_end"))
    ids, places = with_blanks(tokenizer, "Anna [MASK] in [sMASK] <|document_mask|>")
    assert [tokenizer.decode([ids[place]]) for place in places] == [
        "<|mask|>", "<|sentence_mask|>", "<|document_mask|>",
    ]  # fmt: skip
    # The space before a blank belongs to what fills it.
    assert tokenizer.decode(ids) == "Anna<|mask|> in<|sentence_mask|><|document_mask|>"


def test_blank_infilling_is_resumed_to_the_same_bits(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = infilling(recipe, mix={"short": 1.0, "sentence": 1.0, "document": 1.0})
    recipe["data"] |= {"held_out": 0.3}
    recipe["evaluation"] = {"every": 6}
    for _ in train({**recipe, "out": str(tmp_path / "whole")}):
        pass
    for progress in train(recipe):
        if progress.step == 7:
            break
    assert [each.step for each in train(recipe, resume=True)] == [*range(7, 13)]
    runs = [Path(recipe["out"]), tmp_path / "whole"]
    first, second = (load_file(run / "model" / "model.safetensors") for run in runs)
    assert all(first[name].equal(second[name]) for name in second)
    lines = [json.loads(line) for line in (runs[0] / "log.jsonl").read_text().splitlines()]
    assert {"hidden", "without_sentences", "left_out"} <= lines[-1]["metrics"].keys()
    assert any("evaluation" in key or "eval" in key for line in lines for key in line)


def test_a_model_that_can_not_learn_so_is_refused(recipe: dict[str, Any]) -> None:
    for model, says in (({}, "mask=causal"), ({"mask": "prefix"}, "use position: rope_2d or learned_2d")):
        with pytest.raises(ValueError, match=says):
            next(train({**recipe, "objective": "glm", "model": {**recipe["model"], **model}}))
    with pytest.raises(ValueError, match="mask=causal"):
        next(train({**recipe, "objective": "prefix_lm"}))


def test_a_prompt_is_completed(prefixed: Loaded) -> None:
    for name, place in zip(NAMES, PLACES, strict=True):
        for options in ({}, {"beams": 2}):
            told = generate(*prefixed, f"Where is {name}?", max_new_tokens=16, **options)
            assert "".join(token.text for token in told) == f" In {place}."
    with pytest.raises(ValueError, match="use full"):
        next(generate(*prefixed, "Anna", cache="block_memory"))


def test_a_question_is_read_with_its_text(prefixed: Loaded) -> None:
    """As generate does, which is held against forwards without a cache elsewhere."""
    options: dict[str, Any] = {"cache": {"policy": "full"}, "max_new_tokens": 5}
    asked = [{"role": "user", "content": "Where?"}]
    told = [token.id for token in ask_anew(*prefixed, "Anna lives in Rome.", "Where?", **options)]
    assert told == [each.id for each in generate(*prefixed, asked, context="Anna lives in Rome.", **options)]
    with pytest.raises(ValueError, match="use handscroll ask with --file"):
        begin(*prefixed, "Anna lives in Rome.", "full", "model")
