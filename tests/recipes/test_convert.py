"""A folder with fewer key and value heads: by itself, tuned, stopped and gone on, and by a recipe alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from handscroll.model import ModelConfig, Transformer
from handscroll.model.sharing import share_heads
from handscroll.model.slots import LearnedOptions
from handscroll.recipes.convert import convert
from handscroll.recipes.events import Advance, Event, Finished, Said
from handscroll.recipes.folders import load_folder, save_folder
from handscroll.recipes.train import train
from handscroll.text import Tokenizer, read_texts


@pytest.fixture
def folder(tmp_path: Path, corpus: Path) -> Path:
    tokenizer = Tokenizer.train(read_texts(corpus), 280)
    model = Transformer(ModelConfig(tokenizer.vocab_size, 32, 2, 4, 4, 8, 48, 32, qkv_bias=True), seed=4)
    save_folder(model, tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def tune(tmp_path: Path, recipe: dict[str, Any]) -> Path:
    """The recipe of a new model with a new tokenizer: only how it is trained is of use."""
    recipe["train"] |= {"steps": 4, "windows_per_step": 2, "checkpoint_every": 2}
    path = tmp_path / "tune.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def run(*arguments: Any, **options: Any) -> list[Event]:
    return [*convert(*arguments, **options)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_folder_holds_the_pooled_model(pooling: str, folder: Path, tmp_path: Path) -> None:
    said, finished = run(folder, tmp_path / "out", kv_heads=2, pooling=pooling)
    assert isinstance(said, Said)
    # 2 layers x keys and values x 4 heads x 8 features x 32 tokens x 4 bytes.
    assert said.text == (
        f"kv heads 4 -> 2 (pooling {pooling}); keys and values of 32 tokens in float32 16.4 kB -> 8.2 kB"
    )
    assert isinstance(finished, Finished)
    assert finished.result == {
        "model": str(folder),
        "out": str(tmp_path / "out"),
        "pooling": pooling,
        "kv_heads": {"before": 4, "after": 2},
        "cache_bytes": {"before": 16384, "after": 8192, "tokens": 32},
    }
    wanted = share_heads(load_folder(folder).model, 2, pooling)
    loaded, tokenizer = load_folder(tmp_path / "out")
    assert loaded.config == wanted.config
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in wanted.state_dict().items())
    assert tokenizer.encode("The quick") == load_folder(folder).tokenizer.encode("The quick")


def test_tuning_trains_the_pooled_model(folder: Path, tune: Path, tmp_path: Path) -> None:
    events = run(folder, tmp_path / "out", kv_heads=1, tune=tune)
    assert [(each.task, each.done) for each in events if isinstance(each, Advance)] == [
        ("tuning", step) for step in range(1, 5)
    ]
    assert isinstance(events[-1], Finished)
    assert events[-1].result["steps"] == 4
    run(folder, tmp_path / "untuned", kv_heads=1)
    before, after = weights(tmp_path / "untuned"), weights(tmp_path / "out")
    assert {name: tensor.shape for name, tensor in before.items()} == {
        name: tensor.shape for name, tensor in after.items()
    }
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "run" / "model").exists()


def test_a_stopped_tuning_goes_on_to_the_same_bits(folder: Path, tune: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "whole", kv_heads=1, tune=tune, changes=[f"out={tmp_path / 'other'}"])
    for event in convert(folder, tmp_path / "out", kv_heads=1, tune=tune):
        if isinstance(event, Advance) and event.done == 3:
            break
    with pytest.raises(ValueError, match=r"model\.share_heads\.kv_heads was 1 .* and is 2 now"):
        convert(folder, tmp_path / "out", kv_heads=2, tune=tune, resume=True)
    run(folder, tmp_path / "out", kv_heads=1, tune=tune, resume=True)
    wanted = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == wanted


def test_a_recipe_alone_can_pool_and_stretch(folder: Path, recipe: dict[str, Any]) -> None:
    del recipe["tokenizer"]
    stretch = {"method": "yarn", "to": 64}
    recipe["model"] = {"from": str(folder), "stretch": stretch, "share_heads": {"kv_heads": 2, "pooling": "first"}}
    recipe["train"]["steps"] = 1
    assert len([*train(recipe)]) == 1
    config = load_folder(recipe["out"] + "/model").model.config
    assert (config.max_positions, config.num_kv_heads) == (64, 2)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no divisor": ({"kv_heads": 3}, "kv_heads=3: the model's 4 heads .*: give 1 or 2"),
    "as many as there are": ({"kv_heads": 4}, "kv_heads=4: .*: give 1 or 2"),
    "unknown pooling": ({"pooling": "sum"}, "pooling='sum' is not known; known: mean, first"),
    "changes without a recipe": ({"changes": ["train.steps=3"]}, "train.steps=3 belongs to a training run"),
    "resume without a recipe": ({"resume": True}, "resume belongs to a training run"),
    "no folder": ({"model": "nowhere"}, "nowhere is not a folder"),
    "out of another model": ({"out": "model"}, "model exists already: give the name of a new folder"),
    "one folder for both": ({"tune": "tune.yaml", "changes": ["out=new"]}, "the recipe's out is .*new, too"),
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
        convert(**{"model": "model", "out": "new", "kv_heads": 2, **changes})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_family_of_multi_head_models_refuses(tmp_path: Path, corpus: Path) -> None:
    """GPT-2's config.json has no key for it."""
    tokenizer = Tokenizer.train(read_texts(corpus), 280)
    config = ModelConfig(
        tokenizer.vocab_size,
        width=32,
        num_layers=1,
        num_heads=4,
        num_kv_heads=4,
        head_width=8,
        feedforward_width=128,
        max_positions=32,
        position=LearnedOptions(),
        norm="layer",
        feedforward="gelu_tanh",
        qkv_bias=True,
        output_bias=True,
        feedforward_bias=True,
        tied_embeddings=True,
    )
    model = Transformer(config)
    save_folder(model, tokenizer, tmp_path / "gpt2")
    with pytest.raises(ValueError, match="kv_heads=2: in a gpt2 checkpoint every query head has keys"):
        convert(tmp_path / "gpt2", tmp_path / "out", kv_heads=2)
