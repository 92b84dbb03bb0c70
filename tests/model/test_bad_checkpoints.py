"""Damaged and unsupported folders: each is refused by name, with the way out, and nothing in them is executed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from handscroll.model import MissingCheckpoint, load_model
from handscroll.model.checkpoint import load_shapes

NAME = "qwen2-gqa4"

Damage = Callable[[Path], object]


def config(*removed: str, **changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        content = {key: value for key, value in json.loads(path.read_text()).items() if key not in removed}
        path.write_text(json.dumps(content | changes))

    return damage


def rope(kind: Any, **options: Any) -> Damage:
    return config(rope_parameters={"rope_type": kind, "rope_theta": 1e4, **options})


def llama(**changes: Any) -> Damage:
    return config(model_type="llama", attention_bias=False, **changes)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = load_file(path)
        change(content)
        save_file(content, path, metadata={"format": "pt"})

    return damage


def shard(damage: Damage) -> Damage:
    """Splits the weights into two shards first."""

    def damaged(folder: Path) -> None:
        content = list(load_file(folder / "model.safetensors").items())
        (folder / "model.safetensors").unlink()
        weight_map = {}
        for number, part in enumerate((content[:5], content[5:]), start=1):
            name = f"model-{number:05d}-of-00002.safetensors"
            save_file(dict(part), folder / name)
            weight_map |= dict.fromkeys(dict(part), name)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        damage(folder)

    return damaged


def remap(**changes: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        weight_map = json.loads(path.read_text())["weight_map"]
        path.write_text(json.dumps({"weight_map": weight_map | changes}))

    return damage


def truncate(name: str, keep: float) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])

    return damage


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def pickled(content: Any) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return damage


def replaced_by(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def reshape(content: dict[str, torch.Tensor]) -> None:
    content["model.norm.weight"] = torch.ones(63)


def quantize(content: dict[str, torch.Tensor]) -> None:
    content["model.norm.weight"] = content["model.norm.weight"].to(torch.int8)


def add_head(content: dict[str, torch.Tensor]) -> None:
    content["lm_head.weight"] = content["model.embed_tokens.weight"] + 1


MISSING = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"holds no config\.json: give the folder of"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"holds no weights: expected one of model\.s",
    ),
    "missing shard": (
        shard(lambda folder: (folder / "model-00002-of-00002.safetensors").unlink()),
        r"lacks shards that model\.safetensors\.index\.json names: model-00002-of-00002\.safetensors: download",
    ),
}

BAD = {
    "family": (
        config(model_type="gpt9"),
        r"config\.json: model_type='gpt9' is not supported; known: llama, qwen2, mistral",
    ),
    "no family": (config("model_type"), r"model_type=None is not supported"),
    "family that is no name": (config(model_type=["llama"]), r"model_type=\['llama'\] is not supported"),
    "config cut short": (truncate("config.json", 0.5), r"config\.json is not JSON .*download it again"),
    "config in another encoding": (replaced_by("config.json", '{"a": "é"}'.encode("latin-1")), r"is not JSON"),
    "config that is a list": (replaced_by("config.json", b"[1]"), r"holds a list; expected a JSON object"),
    "missing size": (config("hidden_size"), r"hidden_size is missing: a qwen2 config\.json must give it"),
    "size in quotes": (config(hidden_size="64"), r"hidden_size='64' is not of type int"),
    "size that is true": (config(num_hidden_layers=True), r"num_hidden_layers=True is not of type int"),
    "negative size": (config(vocab_size=-5), r"vocab_size=-5: it must be at least 1"),
    "no heads": (config(num_attention_heads=0), r"num_attention_heads=0: it must be at least 1"),
    "flag that is a number": (config(tie_word_embeddings=1), r"tie_word_embeddings=1 is not of type bool"),
    "kv heads": (config(num_key_value_heads=3), r"config\.json: num_heads=4 is not a multiple of num_kv_heads=3"),
    "head width": (config(num_attention_heads=6), r"hidden_size=64 is not a multiple of num_attention_heads=6"),
    "odd head width": (config(head_dim=5), r"head_width=5 with share=1\.0: 5 features would be turned, which is odd"),
    "activation": (config(hidden_act="gelu"), r"hidden_act='gelu' isn't supported yet: only 'silu'"),
    "llama activation": (llama(hidden_act="relu"), r"hidden_act='relu' isn't supported yet: only 'silu'"),
    "windows without a switch": (
        config(layer_types=["sliding_attention"] * 2),
        r"layer_types has 'sliding_attention', but no window is given: set use_sliding_window to true, and sliding_w",
    ),
    "switch that is a word": (config(use_sliding_window="yes"), r"use_sliding_window='yes' is not of type bool"),
    "window of nothing": (
        config(use_sliding_window=True, sliding_window=0, max_window_layers=0, layer_types=None),
        r"sliding_window=0: it must be at least 1",
    ),
    "whole layers that are true": (
        config(use_sliding_window=True, max_window_layers=False),
        r"max_window_layers=False is not of type int",
    ),
    "windows of a llama": (llama(layer_types=["sliding_attention"] * 2), r"isn't supported: only 'full_attention'"),
    "windows in the first layers": (
        config(layer_types=["sliding_attention", "full_attention"], use_sliding_window=True, sliding_window=5),
        r"layer_types=.* isn't supported: 2 layers, first those of 'full_attention', then of 'sliding_attention'",
    ),
    "windows of a mistral said twice": (
        config(model_type="mistral", sliding_window=5, layer_types=["full_attention"] * 2),
        r"layer_types=.* and sliding_window=5 say different things: remove layer_types",
    ),
    "layers that are no list": (config(layer_types=3), r"layer_types=3 isn't supported"),
    "scaling of version 4": (
        config(rope_parameters=None, rope_scaling={"type": "su", "factor": 4.0}),
        r"rope_scaling has type 'su', which isn't supported; known: default, linear, dynamic, yarn, llama3, longrope",
    ),
    "scaling of version 5": (
        config(rope_parameters={"rope_type": "proportional", "rope_theta": 1e4, "factor": 8.0}),
        r"rope_parameters has type 'proportional', which isn't supported; known: default, linear",
    ),
    "scaling that is no name": (rope(["yarn"]), r"rope_parameters has type \['yarn'\], which isn't supported"),
    "scaling said twice": (
        config(rope_scaling={"type": "linear", "factor": 4.0}),
        r"rope_parameters and rope_scaling say different things: remove one of them",
    ),
    "factor below 1": (rope("linear", factor=0.5), r"factor=0\.5: at least 1, and finite"),
    "factor without end": (rope("dynamic", factor=float("inf")), r"factor=inf: at least 1, and finite"),
    "factor in quotes": (rope("linear", factor="4"), r"factor='4' is not of type float"),
    "no factor": (rope("dynamic"), r"factor is missing: rope_parameters of type 'dynamic' must give it"),
    "no yarn factor": (rope("yarn", factor=None), r"factor is missing: rope_parameters of type 'yarn' must give it"),
    "original window": (
        rope("yarn", factor=4.0, original_max_position_embeddings=0),
        r"original_max_position_embeddings=0: it must be at least 1",
    ),
    "original window of one token": (
        rope("yarn", factor=4.0, original_max_position_embeddings=1),
        r"original_max_positions=1: at least 2 tokens",
    ),
    "betas": (rope("yarn", factor=4.0, beta_fast=1, beta_slow=32), r"beta_fast=1\.0 and beta_slow=32\.0: turns in the"),
    "truncate": (rope("yarn", factor=4.0, truncate=1), r"truncate=1 is not of type bool"),
    "temperature": (
        rope("yarn", factor=4.0, attention_factor=-1.0),
        r"attention_factor=-1\.0: more than 0, and finite; left",
    ),
    "yarn theta": (rope("yarn", rope_theta=1.0, factor=4.0), r"theta=1\.0: YaRN needs more than 1"),
    "no low frequency": (
        rope("llama3", factor=8.0, high_freq_factor=4.0),
        r"low_freq_factor is missing: rope_parameters of type 'llama3' must give it",
    ),
    "frequencies": (
        rope("llama3", factor=8.0, low_freq_factor=4.0, high_freq_factor=4.0),
        r"low_freq_factor=4\.0 and high_freq_factor=4\.0: turns in the trained window",
    ),
    "no long factors": (rope("longrope", short_factor=[1] * 8), r"long_factor is missing: rope_parameters of type"),
    "long factors of another width": (
        rope("longrope", short_factor=[1] * 8, long_factor=[2] * 7),
        r"long_factor holds 7 factors, but head_width=16 has 8 pairs: give one factor a pair",
    ),
    "factors that are no list": (
        rope("longrope", short_factor=1.0, long_factor=[2] * 8),
        r"short_factor=1\.0 is not a list of numbers",
    ),
    "factors in quotes": (
        rope("longrope", short_factor=[1] * 8, long_factor=["2"] * 8),
        r"long_factor\[0\]='2' is not of type float",
    ),
    "factor of nothing": (
        rope("longrope", short_factor=[1] * 8, long_factor=[2] * 7 + [0]),
        r"long_factor holds 0\.0: every factor is more than 0",
    ),
    "stretched less than once": (
        rope("longrope", short_factor=[1] * 8, long_factor=[2] * 8, factor=0.5),
        r"factor=0\.5: at least 1, and finite; 1 leaves the",
    ),
    "dynamic positions of one pair": (
        config(head_dim=2, rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
        r"2 features of a head are turned: NTK-aware positions need at least 4",
    ),
    "rope per layer": (
        config(rope_parameters={"full_attention": {"rope_theta": 1e4}}),
        r"rope_parameters=.*isn't supported: give one",
    ),
    "rope that is no mapping": (config(rope_parameters=[1]), r"rope_parameters=\[1\] isn't supported"),
    "partial rope": (
        config(rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5}),
        r"partial_rotary_factor=0\.5: this architecture turns whole heads",
    ),
    "partial rope beside the parameters": (config(partial_rotary_factor=0.5), r"partial_rotary_factor=0\.5: this"),
    "two thetas": (
        config(rope_theta=5e5),
        r"rope_theta=500000\.0 and rope_parameters\.rope_theta=10000\.0: remove all",
    ),
    "theta in quotes": (config("rope_parameters", rope_theta="1e4"), r"rope_theta='1e4' is not of type float"),
    "negative theta": (config("rope_parameters", rope_theta=-1.0), r"rope_theta=-1\.0: it must be positive"),
    "quantized": (config(quantization_config={"bits": 4}), r"quantized checkpoints aren't supported yet"),
    "weights cut short": (truncate("model.safetensors", 0.6), r"model\.safetensors is not a whole safetensors file"),
    "weights cut in the header": (truncate("model.safetensors", 0.001), r"is not a whole safetensors file"),
    "empty weights": (replaced_by("model.safetensors", b""), r"is not a whole safetensors file .*download it again"),
    "shard cut short": (
        shard(truncate("model-00001-of-00002.safetensors", 0.5)),
        r"model-00001-of-00002\.safetensors is",
    ),
    "index without a map": (
        shard(replaced_by("model.safetensors.index.json", b"{}")),
        r"index\.json has no weight_map: it must say",
    ),
    "index that leads outside": (
        shard(remap(**{"model.norm.weight": "../other.safetensors"})),
        r"names shards outside its folder: \.\./other\.safetensors",
    ),
    "index that promises more": (
        shard(remap(**{"model.extra.weight": "model-00001-of-00002.safetensors"})),
        r"names tensors that its shards don't hold: model\.extra\.weight",
    ),
    "missing tensor": (
        tensors(lambda content: content.pop("model.layers.1.mlp.up_proj.weight")),
        r"the weights don't belong to its config\.json: the file lacks model\.layers\.1\.mlp\.up_proj\.weight$",
    ),
    "unexpected tensors": (
        tensors(lambda content: content.update({f"extra.{number}": torch.ones(1) for number in range(7)})),
        r"the file holds unexpected extra\.0, extra\.1, extra\.2, extra\.3 and 3 more$",
    ),
    "more layers than promised": (
        config(num_hidden_layers=1, layer_types=None),
        r"holds unexpected model\.layers\.1\.",
    ),
    "another family's tensors": (llama(), r"holds unexpected model\.layers\.0\.self_attn\.k_proj\.bias"),
    "shape": (tensors(reshape), r"model\.norm\.weight has shape \(63,\), but config\.json asks for \(64,\): use the"),
    "shape from config": (config(intermediate_size=96), r"down_proj\.weight has shape \(64, 112\), but .* \(64, 96\)"),
    "integer weights": (tensors(quantize), r"model\.norm\.weight is torch\.int8; supported: float32, bfloat16"),
    "NaN": (
        tensors(lambda content: content["model.norm.weight"][3:5].fill_(float("nan"))),
        r"model\.norm\.weight holds 2 numbers that are NaN or infinite as float32: take an earlier checkpoint",
    ),
    "infinity": (
        tensors(lambda content: content["model.layers.1.mlp.up_proj.weight"][3, 5].fill_(-float("inf"))),
        r"model\.layers\.1\.mlp\.up_proj\.weight holds 1 numbers",
    ),
    "tied and not": (
        lambda folder: (config(tie_word_embeddings=True)(folder), tensors(add_head)(folder)),
        r"config\.json ties lm_head\.weight to model\.embed_tokens\.weight, but the file holds two different ones",
    ),
    "pickle with code": (pickled({"a": Evil()}), r"pytorch_model\.bin can't be read as plain tensors.* never run"),
    "pickle of something else": (pickled([1, 2]), r"is not a dictionary of tensors"),
    "pickle cut short": (
        lambda folder: (pickled({"a": torch.ones(99)})(folder), truncate("pytorch_model.bin", 0.5)(folder)),
        r"pytorch_model\.bin can't be read",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD.keys())
def test_refused(damage: Damage, message: str, folder_of: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    folder = folder_of(NAME)
    damage(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("executed").exists()


@pytest.mark.parametrize(("damage", "message"), MISSING.values(), ids=MISSING.keys())
def test_missing(damage: Damage, message: str, folder_of: Any) -> None:
    folder = folder_of(NAME)
    damage(folder)
    with pytest.raises(MissingCheckpoint, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder: give a folder that holds config\.json"):
        load_model(tmp_path / "nowhere")


def test_dtype_that_is_no_weight_dtype(folder_of: Any) -> None:
    with pytest.raises(ValueError, match=r"dtype=torch\.int8: weights are read as one of float32"):
        load_model(folder_of(NAME), dtype=torch.int8)


def test_weights_that_are_not_finite_are_loaded_on_request(folder_of: Any) -> None:
    """A number that is finite in the file may be too large for the dtype that is asked for."""
    folder = folder_of(NAME)
    tensors(lambda content: content["model.norm.weight"].mul_(1e6))(folder)
    assert load_model(folder).norm.weight.abs().max() > 65504
    with pytest.raises(ValueError, match=r"model\.norm\.weight holds \d+ numbers that are NaN or infinite as float16"):
        load_model(folder, dtype=torch.float16)
    assert load_model(folder, dtype=torch.float16, finite=False).norm.weight.isinf().any()


def test_weights_that_do_not_fit(folder_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handscroll.model.footprint.available_memory", lambda device: 1000)
    with pytest.raises(MemoryError, match=r"the weights of .* needs? .* kB, but 1\.0 kB of memory is free"):
        load_model(folder_of(NAME))


@pytest.mark.parametrize(
    "name", ["weights cut short", "shard cut short", "shape", "missing tensor", "pickle with code"]
)
def test_looking_refuses_what_loading_does(name: str, folder_of: Any, tmp_path: Path) -> None:
    damage, message = BAD[name]
    folder = folder_of(NAME)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_shapes(folder)
