"""Baichuan folders: W_pack, which positions they have, the head of Baichuan 2, and what a new ALiBi model becomes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from handscroll.kvcache import Full
from handscroll.model import Layout, ModelConfig, RopeOptions, Transformer, load_model, save_model
from handscroll.model.families import FAMILIES, baichuan, family_of
from handscroll.model.heads import NormalizedHeadOptions
from handscroll.model.position import AlibiOptions, DynamicAlibiOptions, LinearOptions
from handscroll.model.stretching import stretch, with_config

CONFIG = ModelConfig(97, 64, 2, 4, 4, 16, 112, 32, position=AlibiOptions())


def read_json(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


@pytest.fixture
def model() -> Transformer:
    model = Transformer(CONFIG, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.requires_grad_(False)


@pytest.fixture
def tokens_BT() -> torch.Tensor:
    return torch.randint(97, (2, 50), generator=torch.Generator().manual_seed(0))


def test_a_new_model_is_written_as_baichuan_13b(model: Transformer, tokens_BT: torch.Tensor, tmp_path: Path) -> None:
    save_model(model, tmp_path / "out")
    content, tensors = read_json(tmp_path / "out"), load_file(tmp_path / "out" / "model.safetensors")
    assert content["model_type"] == "baichuan"
    assert content["architectures"] == ["BaichuanForCausalLM"]
    assert content["model_max_length"] == 32
    assert not {"max_position_embeddings", "rope_theta", "alibi_scaling"} & set(content)
    attention = model.get_submodule("layers.1.attention")
    packed = torch.cat([attention.get_submodule(name).weight for name in "qkv"])  # type: ignore[misc]
    assert torch.equal(tensors["model.layers.1.self_attn.W_pack.weight"], packed)
    assert not any("q_proj" in name or "v_proj" in name for name in tensors)
    loaded = load_model(tmp_path / "out")
    assert loaded.config == CONFIG
    assert torch.equal(loaded(tokens_BT), model(tokens_BT))
    save_model(loaded, tmp_path / "again")
    assert read_json(tmp_path / "again") == content
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "changes", [{"num_kv_heads": 2}, {"head_width": 24, "num_kv_heads": 1, "tied_embeddings": True}], ids=str
)
def test_grouped_heads_of_any_width_come_back(changes: dict[str, Any], tokens_BT: torch.Tensor, tmp_path: Path) -> None:
    model = Transformer(dataclasses.replace(CONFIG, position=DynamicAlibiOptions(), **changes), seed=1)
    save_model(model, tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert loaded.config == model.config
    assert torch.equal(loaded(tokens_BT), model(tokens_BT))


def test_a_stretched_folder_says_so_and_can_be_plain_again(model: Transformer, tmp_path: Path) -> None:
    save_model(model, tmp_path / "plain")
    loaded = load_model(tmp_path / "plain")
    save_model(with_config(loaded, stretch(CONFIG, "dynamic_alibi", 64)), tmp_path / "long")
    assert read_json(tmp_path / "long") == read_json(tmp_path / "plain") | {"alibi_scaling": {"type": "dynamic"}}
    long = load_model(tmp_path / "long")
    assert long.config == dataclasses.replace(CONFIG, position=DynamicAlibiOptions())
    save_model(with_config(long, CONFIG), tmp_path / "back")
    assert read_json(tmp_path / "back") == read_json(tmp_path / "plain")


SHAPES: dict[str, dict[str, Any]] = {
    "four-heads": {},
    "six-heads-tied": {"hidden_size": 72, "num_attention_heads": 6, "num_key_value_heads": 6, "rms_norm_eps": 1e-3}
    | {"tie_word_embeddings": True},
    "one-layer": {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 80},
}


def pack_folder(pair: Any, folder: Path, window_key: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """A Llama of transformers as a Baichuan: q, k and v in one matrix, and the key that tells its positions."""
    content, tensors = read_json(pair.folder), load_file(pair.folder / "model.safetensors")
    for number in range(content["num_hidden_layers"]):
        layer = f"model.layers.{number}.self_attn"
        parts = [tensors.pop(f"{layer}.{name}_proj.weight") for name in "qkv"]
        tensors[f"{layer}.W_pack.weight"] = torch.cat(parts)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = {key: content[key] for key in (*kept, "rms_norm_eps", "tie_word_embeddings")}
    config |= {"model_type": "baichuan", "architectures": ["BaiChuanForCausalLM"], "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps(config | {"model_max_length": 99} | {window_key: 256}))
    return folder, tensors


@pytest.mark.parametrize("shape", SHAPES)
def test_the_7b_models_have_rotary_positions(
    shape: str, new_pair: Callable[..., Any], tokens_BT: torch.Tensor, tmp_path: Path
) -> None:
    """A Llama of transformers with its q, k and v in one matrix gives the same logits as before."""
    pair = new_pair("llama", **SHAPES[shape])
    folder, tensors = pack_folder(pair, tmp_path / "baichuan", "max_position_embeddings")
    loaded = load_model(folder)
    assert (loaded.config.position, loaded.config.max_positions) == (RopeOptions(), 256)
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens_BT), pair.theirs(tokens_BT).logits, atol=1e-4, rtol=0)
    save_model(loaded, tmp_path / "out")
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert out.keys() == tensors.keys()
    assert all(torch.equal(out[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_the_13b_models_have_alibi(
    shape: str, new_pair: Callable[..., Any], tokens_BT: torch.Tensor, tmp_path: Path
) -> None:
    """The same Llama with all tokens at position 0, where nothing turns, and BLOOM's bias in its mask."""
    pair = new_pair("llama", **SHAPES[shape])
    folder, _ = pack_folder(pair, tmp_path / "baichuan", "model_max_length")
    loaded = load_model(folder)
    assert (loaded.config.position, loaded.config.max_positions) == (AlibiOptions(), 256)
    lengths = (50, 20)
    real_BT = torch.arange(50) < torch.tensor(lengths)[:, None]
    bias_BH1S = build_alibi_tensor(real_BT, loaded.config.num_heads, torch.float32).view(2, -1, 1, 50)
    mask_BHTS = bias_BH1S.masked_fill(torch.ones(50, 50).triu(1).bool(), torch.finfo(torch.float32).min)
    theirs = pair.theirs(tokens_BT, attention_mask=mask_BHTS, position_ids=torch.zeros(2, 50, dtype=torch.long)).logits
    ours = loaded(tokens_BT, Layout.rows(lengths))
    torch.testing.assert_close(ours[real_BT], theirs[real_BT], atol=1e-4, rtol=0)
    cache = Full().start(loaded.config, loaded.position, 2)
    read = torch.cat([loaded(part_BT, cache=cache) for part_BT in tokens_BT.split([20, 1, 29], dim=1)], dim=1)
    torch.testing.assert_close(read[0], theirs[0], atol=1e-4, rtol=0)


def test_baichuan_2_divides_the_rows_of_its_head(
    model: Transformer, tokens_BT: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights come back undivided, and a vocabulary says which head it is."""
    save_model(model, tmp_path / "raw")
    monkeypatch.setattr(baichuan, "NORMALIZED_VOCABULARY", 97)
    loaded = load_model(tmp_path / "raw")
    assert loaded.config == dataclasses.replace(CONFIG, head=NormalizedHeadOptions())
    hidden = model.hidden(tokens_BT).last_BTE
    matrix = model.get_parameter("head.weight")
    divided = matrix / matrix.norm(dim=1, keepdim=True)
    torch.testing.assert_close(loaded(tokens_BT), hidden @ divided.T, atol=1e-5, rtol=0)
    for number, written in enumerate((loaded, Transformer(loaded.config))):
        save_model(written, tmp_path / str(number))
        assert read_json(tmp_path / str(number))["model_type"] == "baichuan"
        assert load_model(tmp_path / str(number)).config == loaded.config
    raw, out = (load_file(tmp_path / name / "model.safetensors") for name in ("raw", "0"))
    assert all(torch.equal(out[name], tensor) for name, tensor in raw.items())
    monkeypatch.setattr(baichuan, "NORMALIZED_VOCABULARY", 98)
    with pytest.raises(ValueError, match=r"a baichuan checkpoint can't say head=NormalizedHeadOptions\(\)"):
        baichuan.BAICHUAN.write(loaded.config)


def test_what_decides_positions() -> None:
    assert baichuan.NORMALIZED_VOCABULARY == 125696
    base = {"model_type": "baichuan", "model_max_length": 4096}
    assert family_of(base) is baichuan.BAICHUAN
    assert family_of(base | {"max_position_embeddings": 4096}) is baichuan.BAICHUAN_7B


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "biases": ({"qkv_bias": True}, r"a baichuan checkpoint can't say qkv_bias=True"),
    "rotary": ({"position": LinearOptions(factor=2.0)}, r"with ALiBi can't say position=LinearOptions\("),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_family_can_not_say_is_refused(case: str) -> None:
    changes, says = REFUSED[case]
    with pytest.raises(ValueError, match=says):
        FAMILIES["baichuan"].write(dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize("scaling", [3, {}, {"type": "yarn"}, {"type": 3}])
def test_unknown_scaling_is_refused(scaling: Any, model: Transformer, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(read_json(tmp_path) | {"alibi_scaling": scaling}))
    with pytest.raises(ValueError, match=r"alibi_scaling=.* isn't supported; known types: dynamic"):
        load_model(tmp_path)


def test_a_damaged_matrix_is_named(model: Transformer, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.self_attn.W_pack.weight"] = torch.zeros(190, 64)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"holds unexpected model\.layers\.0\.self_attn\.W_pack\.weight"):
        load_model(tmp_path)
