"""Pooled key and value heads: the mean by numpy, models that nothing is lost of, transformers' logits, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from handscroll.model import ModelConfig, Transformer, load_model, save_model
from handscroll.model.attention import LowRankOptions, SparseOptions
from handscroll.model.footprint import kv_bytes
from handscroll.model.position import AlibiOptions, RelativeOptions
from handscroll.model.sharing import share_heads, shared_config

CONFIG = ModelConfig(50, 32, 2, 4, 4, 8, 48, 64)
TOKENS_BT = torch.randint(0, 50, (2, 20), generator=torch.Generator().manual_seed(0))
KINDS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "biases": {"qkv_bias": True, "output_bias": True},
    "qk_norm": {"qk_norm": True},
    "alibi": {"position": AlibiOptions()},
    "relative": {"position": RelativeOptions()},
    "sparse": {"attention": SparseOptions(block=4, window=6)},
    "shared_layers": {"shared_layers": True},
}


def random_model(config: ModelConfig) -> Transformer:
    model = Transformer(config, seed=None)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return model.requires_grad_(False)


@pytest.mark.parametrize("kv_heads", [2, 1])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_a_group_becomes_one_head(kv_heads: int, pooling: str) -> None:
    model = random_model(dataclasses.replace(CONFIG, qkv_bias=True, qk_norm=True))
    shared = share_heads(model, kv_heads, pooling)
    assert shared.config == dataclasses.replace(model.config, num_kv_heads=kv_heads)
    before, after = model.state_dict(), shared.state_dict()
    assert before.keys() == after.keys()
    pooled = {name for name in before if ".attention.k." in name or ".attention.v." in name}
    assert len(pooled) == 2 * 4
    for name, tensor in after.items():
        if name not in pooled:
            assert tensor.data_ptr() == before[name].data_ptr(), name
            continue
        heads = before[name].numpy().reshape(4, 8, -1)
        size = 4 // kv_heads
        for number in range(kv_heads):
            group = heads[size * number : size * number + size]
            wanted = np.mean(group, 0) if pooling == "mean" else group[0]
            np.testing.assert_allclose(tensor.numpy().reshape(kv_heads, 8, -1)[number], wanted, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_equal_heads_lose_nothing(kind: str, pooling: str) -> None:
    """Query heads find their keys in the group that they were in: heads are equal within groups, not between them."""
    model = random_model(dataclasses.replace(CONFIG, **KINDS[kind]))
    for name, tensor in model.state_dict().items():
        if ".attention.k." in name or ".attention.v." in name:
            groups = tensor.unflatten(0, (2, 2, 8))
            groups[:, 1] = groups[:, 0]
    shared = share_heads(model, 2, pooling)
    torch.testing.assert_close(shared(TOKENS_BT), model(TOKENS_BT), atol=1e-5, rtol=0)
    assert (share_heads(model, 1, pooling)(TOKENS_BT) - model(TOKENS_BT)).abs().max() > 1e-2
    assert kv_bytes(shared.config, 9) * 2 == kv_bytes(model.config, 9)


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": True}, {"qk_norm": True, "head_width": 16}])
def test_transformers_reads_what_is_written(changes: dict[str, Any], tmp_path: Path) -> None:
    """Llama, Qwen2 and Qwen3, in the folder's own dtype; grouped heads become one as well."""
    save_model(random_model(dataclasses.replace(CONFIG, num_kv_heads=2, **changes)).bfloat16(), tmp_path / "model")
    shared = share_heads(load_model(tmp_path / "model"), 1)
    assert shared.embedding.weight.dtype == torch.bfloat16
    save_model(shared, tmp_path / "shared")
    ours = load_model(tmp_path / "shared", dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "shared", dtype=torch.float32).eval()
    assert theirs.config.num_key_value_heads == 1
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS_BT), theirs(TOKENS_BT).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "kv_heads", "says"),
    [
        ({}, 3, "kv_heads=3: the model's 4 heads .*: give 1 or 2"),
        ({}, 4, "kv_heads=4: the model's 4 heads .*: give 1 or 2"),
        ({}, 8, "give 1 or 2"),
        ({}, 0, "kv_heads=0"),
        ({"num_kv_heads": 1}, 1, "one head for keys and values already"),
        (
            {"attention": LowRankOptions(rank=4, shared="none"), "mask": "bidirectional"},
            2,
            "kv_heads=2: attention.e.weight, attention.f.weight can't be pooled",
        ),
    ],
)
def test_what_cannot_be_pooled_is_refused(changes: dict[str, Any], kv_heads: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        shared_config(dataclasses.replace(CONFIG, **changes), kv_heads)


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="pooling='median' is not known; known: mean, first"):
        shared_config(CONFIG, 1, "median")
