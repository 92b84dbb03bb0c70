"""A longer window for a folder: transformers reads the same of it, tuning changes weights, mistakes leave nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from handscroll.model import ModelConfig, Transformer
from handscroll.model.families.family import Family
from handscroll.model.stretching import METHODS
from handscroll.recipes.events import Advance, Event, Finished, Said
from handscroll.recipes.extend import extend
from handscroll.recipes.folders import load_folder, save_folder
from handscroll.recipes.train import train
from handscroll.text import Tokenizer, read_texts

TOLERANCE = 1e-4
WINDOW, TO = 32, 128
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 8.0, 9.0]}


@pytest.fixture
def folder(tmp_path: Path, corpus: Path) -> Path:
    """A model with every tensor away from its start, and a tokenizer that knows of the window."""
    tokenizer = Tokenizer.train(read_texts(corpus), 280)
    tokenizer.config["model_max_length"] = WINDOW
    model = Transformer(ModelConfig(tokenizer.vocab_size, 32, 2, 2, 1, 16, 48, WINDOW, qkv_bias=True), seed=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    path = tmp_path / "model"
    save_folder(model, tokenizer, path)
    return path


@pytest.fixture
def tune(tmp_path: Path, recipe: dict[str, Any]) -> Path:
    """The recipe of a new model with a new tokenizer: only how it is trained is of use."""
    recipe["train"] |= {"steps": 4, "windows_per_step": 2, "checkpoint_every": 2}
    path = tmp_path / "tune.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def run(*arguments: Any, **options: Any) -> list[Event]:
    return [*extend(*arguments, **options)]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "dynamic_alibi"])
@torch.no_grad()
def test_transformers_reads_what_is_written(method: str, folder: Path, tmp_path: Path) -> None:
    """The same logits within the old window and past it; not one bit of a weight has changed."""
    out, options = tmp_path / "long", FACTORS if method == "longrope" else {}
    said, finished = run(folder, out, method=method, to=TO, options=options)
    assert isinstance(said, Said)
    assert f"window 32 -> 128 tokens (4 times), positions {method}" in said.text
    assert isinstance(finished, Finished)
    assert finished.result == {"model": str(folder), "out": str(out), "method": method, "window": WINDOW, "to": TO}
    assert (out / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    config = json.loads((out / "config.json").read_text())
    # Dynamic NTK stretches from this number on, in transformers as here.
    assert config["max_position_embeddings"] == (WINDOW if method == "dynamic" else TO)
    ours, tokenizer = load_folder(out)
    assert tokenizer.config["model_max_length"] == TO
    plain = load_folder(folder).model
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    for length in (20, WINDOW + 1, TO):
        tokens_BT = torch.randint(0, 280, (2, length))
        torch.testing.assert_close(ours(tokens_BT), theirs(tokens_BT).logits, atol=TOLERANCE, rtol=0)
    # The last and longest text tells the methods apart.
    assert (ours(tokens_BT) - plain(tokens_BT)).abs().max() > 100 * TOLERANCE or method == "none"


def test_options_reach_the_file(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "long", method="yarn", to=TO, options={"beta_fast": 4})
    scaling = json.loads((tmp_path / "long" / "config.json").read_text())["rope_scaling"]
    assert (scaling["beta_fast"], scaling["factor"], scaling["original_max_position_embeddings"]) == (4.0, 4.0, 32)


@pytest.mark.parametrize("method", ["yarn", "dynamic"])
def test_tuning_trains_the_stretched_model_at_its_new_window(
    method: str, folder: Path, tune: Path, tmp_path: Path
) -> None:
    out = tmp_path / "long"
    events = run(folder, out, method=method, to=TO, tune=tune)
    assert [(each.task, each.done) for each in events if isinstance(each, Advance)] == [
        ("tuning", step) for step in range(1, 5)
    ]
    assert isinstance(events[-1], Finished)
    assert events[-1].result["steps"] == 4
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    # Two full windows of the new length, but for the packing's last one.
    assert log[0]["tokens"] > 2 * WINDOW * 2
    run(folder, tmp_path / "untuned", method=method, to=TO)
    before, after = weights(tmp_path / "untuned"), weights(out)
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    tuned, untuned = load_folder(out), load_folder(tmp_path / "untuned")
    assert tuned.model.config == untuned.model.config
    assert tuned.tokenizer.config == untuned.tokenizer.config
    assert not (tmp_path / "run" / "model").exists()


def test_a_stopped_tuning_goes_on_to_the_same_bits(folder: Path, tune: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "linear", "to": TO, "tune": tune}
    run(folder, tmp_path / "whole", **options, changes=[f"out={tmp_path / 'other'}"])
    for event in extend(folder, tmp_path / "long", **options):
        if isinstance(event, Advance) and event.done == 3:
            break
    assert not (tmp_path / "long").exists()
    with pytest.raises(ValueError, match="already holds a run"):
        extend(folder, tmp_path / "long", **options)
    with pytest.raises(ValueError, match=r"model\.stretch\.method was linear .* and is ntk now"):
        extend(folder, tmp_path / "long", **{**options, "method": "ntk"}, resume=True)
    run(folder, tmp_path / "long", **options, resume=True)
    assert (tmp_path / "long" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_a_recipe_alone_can_stretch(folder: Path, recipe: dict[str, Any]) -> None:
    """What `extend` puts into a recipe may stand there, too."""
    del recipe["tokenizer"]
    recipe["model"] = {"from": str(folder), "stretch": {"method": "yarn", "to": 64, "beta_slow": 2}}
    recipe["train"]["steps"] = 1
    assert len([*train(recipe)]) == 1
    config = load_folder(recipe["out"] + "/model").model.config
    assert (config.max_positions, config.position.beta_slow) == (64, 2.0)  # type: ignore[attr-defined]


def test_short_windows_can_stand_at_the_places_of_long_ones(folder: Path, recipe: dict[str, Any]) -> None:
    """PoSE: the window stays what it was, the losses are others than without skips."""
    del recipe["tokenizer"]
    recipe["model"] = {"from": str(folder), "stretch": {"method": "yarn", "to": 4096}}
    recipe["train"] |= {"steps": 2, "window": WINDOW}
    skipped = {**recipe["train"], "skip_positions": {"to": 4096}}
    plain = [each.loss for each in train(recipe)]
    recipe["out"] += "-skipped"
    losses = [each.loss for each in train({**recipe, "train": skipped})]
    assert len(losses) == 2
    assert losses[0] != plain[0]
    for to in (WINDOW - 1, 4097):
        wrong = {**recipe, "train": {**skipped, "skip_positions": {"to": to}}, "out": recipe["out"] + str(to)}
        with pytest.raises(ValueError, match=f"skip_positions.to={to} must lie between train.window, 32, and .* 4096"):
            train(wrong)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no longer window": ({"to": WINDOW}, "to=32 is not longer than the model's window, 32"),
    "unknown method": ({"method": "yarm"}, "method='yarm' is not known; known: linear"),
    "unknown option": ({"options": {"beta": 1}}, "yarn has no option 'beta'"),
    "changes without a recipe": ({"changes": ["train.steps=3"]}, "train.steps=3 belongs to a training run"),
    "resume without a recipe": ({"resume": True}, "resume belongs to a training run"),
    "no folder": ({"model": "nowhere"}, "nowhere is not a folder"),
    "out of another model": ({"out": "model"}, "model exists already: give the name of a new folder"),
    "out below a file": ({"out": "corpus.txt/long"}, "can't be written"),
    "one folder for both": ({"tune": "tune.yaml", "changes": ["out=long"]}, "the recipe's out is .*long, too"),
    "window of the recipe": (
        {"tune": "tune.yaml", "changes": ["train.window=129"]},
        "train.window=129 is more than the model's window, 128",
    ),
    "bad recipe": ({"tune": "tune.yaml", "changes": ["train.stepz=3"]}, "did you mean train.steps"),
    "corpus too short": ({"tune": "tune.yaml", "to": 9000}, r"fewer than one window of 9000"),
}


@pytest.mark.usefixtures("folder", "tune")
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_known_before_anything_is_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, says = MISTAKES[case]
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=says):
        extend(**{"model": "model", "out": "long", "method": "yarn", "to": TO, **changes})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_stretched_model_is_refused(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "long", method="yarn", to=TO)
    with pytest.raises(ValueError, match=r"stretched already \(yarn, factor 4\)"):
        extend(tmp_path / "long", tmp_path / "longer", method="linear", to=256)


def test_what_a_family_cannot_say_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: Family, *_: Any) -> None:
        raise ValueError("a qwen2 checkpoint can't say position=YarnOptions(...)")

    monkeypatch.setattr(Family, "write", write)
    with pytest.raises(ValueError, match="a qwen2 checkpoint can't say"):
        extend(folder, tmp_path / "long", method="yarn", to=TO)


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("handscroll.model.checkpoint.write_json", write)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="can't be written"):
        run(folder, tmp_path / "long", method="yarn", to=TO)
    assert sorted(tmp_path.rglob("*")) == before
