"""ChatGLM folders. The judge is a plain network written down here from the authors' description; it shares no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import silu

from handscroll.kvcache import Full
from handscroll.model import Layout, RopeOptions, load_model, save_model
from handscroll.model.position import LinearOptions, YarnOptions
from handscroll.model.stretching import stretch, with_config

TOLERANCE = 1e-4
LENGTHS = (23, 9, 1)
CONFIG = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "padded_vocab_size": 97,
    "hidden_size": 48,
    "ffn_hidden_size": 80,
    "num_layers": 2,
    "num_attention_heads": 4,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "kv_channels": 16,
    "seq_length": 64,
    "layernorm_epsilon": 1e-5,
    "rmsnorm": True,
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "original_rope": True,
    "post_layer_norm": True,
    "tie_word_embeddings": False,
    "apply_query_key_layer_scaling": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    "chatglm3": {},
    "chatglm3-32k-one-group": {"rope_ratio": 50, "multi_query_group_num": 1, "layernorm_epsilon": 1e-3},
    "chatglm2-32k": {"rope_ratio": 4.0, "_name_or_path": "THUDM/chatglm2-6b-32k", "kv_channels": 24},
    "glm-4-9b-all-heads-no-bias": {"rope_ratio": 500, "multi_query_group_num": 4, "add_qkv_bias": False},
    "one-layer-wide-heads": {"num_layers": 1, "kv_channels": 20, "num_attention_heads": 6, "multi_query_group_num": 3},
}


def random_tensors(config: dict[str, Any]) -> dict[str, Tensor]:
    width, inner, head = config["hidden_size"], config["ffn_hidden_size"], config["kv_channels"]
    heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (config["padded_vocab_size"], width),
        "transformer.encoder.final_layernorm.weight": (width,),
        "transformer.output_layer.weight": (config["padded_vocab_size"], width),
    }
    for number in range(config["num_layers"]):
        layer = f"transformer.encoder.layers.{number}"
        shapes[f"{layer}.input_layernorm.weight"] = (width,)
        shapes[f"{layer}.self_attention.query_key_value.weight"] = ((heads + 2 * groups) * head, width)
        if config["add_qkv_bias"]:
            shapes[f"{layer}.self_attention.query_key_value.bias"] = ((heads + 2 * groups) * head,)
        shapes[f"{layer}.self_attention.dense.weight"] = (width, heads * head)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (width,)
        shapes[f"{layer}.mlp.dense_h_to_4h.weight"] = (2 * inner, width)
        shapes[f"{layer}.mlp.dense_4h_to_h.weight"] = (width, inner)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) * shape[-1] ** -0.5
        if len(shape) > 1
        else torch.randn(shape, generator=generator) * 0.3 + ("norm" in name)
        for name, shape in shapes.items()
    }
    return tensors | {"transformer.rotary_pos_emb.inv_freq": 10000.0 ** -(torch.arange(0, head // 2, 2) / (head // 2))}


def reference(tensors: dict[str, Tensor], config: dict[str, Any], tokens_T: Tensor) -> Tensor:
    """Logits (T, V) of one text, a head at a time, pairs of features as complex numbers."""
    heads, groups, head = (config[key] for key in ("num_attention_heads", "multi_query_group_num", "kv_channels"))
    ratio, divides = config.get("rope_ratio", 1), "chatglm2" in config.get("_name_or_path", "")
    half = head // 2
    speeds = (1e4 if divides else 1e4 * ratio) ** -(torch.arange(0, half, 2).double() / half)
    angles = torch.arange(len(tokens_T)).double()[:, None] / (ratio if divides else 1) * speeds
    turns = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config["layernorm_epsilon"]).sqrt() * weight

    def turned(x_TD: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x_TD[:, :half].reshape(len(x_TD), -1, 2)) * turns
        return torch.cat((torch.view_as_real(pairs).reshape(len(x_TD), half), x_TD[:, half:]), 1)

    x = tensors["transformer.embedding.word_embeddings.weight"][tokens_T]
    later = torch.ones(len(tokens_T), len(tokens_T)).triu(1).bool()
    for number in range(config["num_layers"]):
        own = {name.split(f"layers.{number}.")[-1]: tensor for name, tensor in tensors.items()}
        fused = norm(x, own["input_layernorm.weight"]) @ own["self_attention.query_key_value.weight"].T
        fused = fused + own.get("self_attention.query_key_value.bias", 0)
        columns = fused.split(head, dim=1)
        outs = []
        for number_of_head in range(heads):
            group = number_of_head // (heads // groups)
            query, key, value = columns[number_of_head], columns[heads + group], columns[heads + groups + group]
            scores = turned(query) @ turned(key).T / head**0.5
            outs.append(scores.masked_fill(later, -torch.inf).softmax(-1) @ value)
        x = x + torch.cat(outs, 1) @ own["self_attention.dense.weight"].T
        gate, up = (norm(x, own["post_attention_layernorm.weight"]) @ own["mlp.dense_h_to_4h.weight"].T).chunk(2, 1)
        x = x + (silu(gate) * up) @ own["mlp.dense_4h_to_h.weight"].T
    last = norm(x, tensors["transformer.encoder.final_layernorm.weight"])
    return last @ tensors["transformer.output_layer.weight"].T


@pytest.fixture(params=SHAPES)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CONFIG | SHAPES[request.param]


def write(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    folder.mkdir()
    tensors = random_tensors(config)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


@torch.no_grad()
def test_logits_equal_the_description(config: dict[str, Any], tmp_path: Path) -> None:
    """Rows of different lengths, padded, without a cache and read in three pieces into one."""
    tensors = write(tmp_path / "in", config)
    model = load_model(tmp_path / "in")
    tokens_BT = torch.randint(97, (3, LENGTHS[0]), generator=torch.Generator().manual_seed(1))
    cache, pieces = Full().start(model.config, model.position, 3), []
    for first, last in ((0, 9), (9, 10), (10, LENGTHS[0])):
        lengths = [min(max(length - first, 0), last - first) for length in LENGTHS]
        pieces.append(model(tokens_BT[:, first:last], Layout.rows(lengths, cache.lengths, size=last - first), cache))
    whole_BTV, cached_BTV = model(tokens_BT, Layout.rows(LENGTHS)), torch.cat(pieces, 1)
    for row, length in enumerate(LENGTHS):
        expected_TV = reference(tensors, config, tokens_BT[row, :length])
        for ours_BTV in (whole_BTV, cached_BTV):
            torch.testing.assert_close(ours_BTV[row, :length], expected_TV, atol=TOLERANCE, rtol=0)


def test_a_folder_comes_back(config: dict[str, Any], tmp_path: Path) -> None:
    """Every key and every tensor, the derived frequencies among them."""
    tensors = write(tmp_path / "in", config)
    save_model(load_model(tmp_path / "in"), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(written.items()) == list(config.items())
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_what_the_ratio_means(tmp_path: Path) -> None:
    write(tmp_path / "two", CONFIG | SHAPES["chatglm2-32k"])
    write(tmp_path / "three", CONFIG | SHAPES["chatglm3-32k-one-group"])
    two, three = load_model(tmp_path / "two").config, load_model(tmp_path / "three").config
    assert two.position == LinearOptions(pairing="adjacent", share=0.5, factor=4.0)
    assert three.position == RopeOptions(5e5, "adjacent", 0.5)


@pytest.mark.parametrize(("method", "says"), [("linear", {"rope_ratio": 2.0}), ("yarn", None)])
def test_a_stretched_chatglm2_comes_back(method: str, says: Any, tmp_path: Path) -> None:
    """Position interpolation is what a ratio is to ChatGLM2; other methods have a key that is Handscroll's own."""
    content = CONFIG | {"_name_or_path": "THUDM/chatglm2-6b"}
    write(tmp_path / "in", content)
    model = load_model(tmp_path / "in")
    save_model(with_config(model, stretch(model.config, method, 128)), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == content | {"seq_length": 128} | (says or {"rope_scaling": written.get("rope_scaling")})
    loaded = load_model(tmp_path / "out").config.position
    assert isinstance(loaded, LinearOptions if method == "linear" else YarnOptions)
    assert (loaded.pairing, loaded.share, loaded.factor) == ("adjacent", 0.5, 2.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"position_encoding_2d": True}, r"position_encoding_2d=True isn't supported yet"),
        ({"quantization_bit": 4}, r"quantization_bit=4 isn't supported yet: only 0"),
        ({"rope_ratio": 0}, r"rope_ratio=0\.0: it must be positive"),
        ({"rope_ratio": "4"}, r"rope_ratio='4' is not of type float"),
    ],
)
def test_what_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    write(tmp_path / "in", CONFIG)
    (tmp_path / "in" / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(ValueError, match=says):
        load_model(tmp_path / "in")
