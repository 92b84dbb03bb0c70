"""Bytes foreseen are bytes held: every policy and store, against a cache that has read such a text."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from handscroll.generation import read
from handscroll.kvcache import POLICIES, make_policy
from handscroll.kvcache.block_index import BlockIndex, planned_index
from handscroll.kvcache.plan import Text
from handscroll.model import ModelConfig, Transformer

CONFIG = ModelConfig(97, 32, 3, 4, 2, 16, 48, max_positions=128)
MODEL = Transformer(CONFIG, seed=1).eval().requires_grad_(False)
WINDOWED = dataclasses.replace(CONFIG, sliding_window=64, windowed_from=1)

# A policy, and by how much of what is held the plan may be off.
CASES: dict[str, tuple[Any, float]] = {
    "full": ("full", 0),
    "sliding_window": ({"policy": "sliding_window", "window": 100}, 0),
    "segment_recurrence": ({"policy": "segment_recurrence", "segment": 30, "memory": 50}, 0),
    "attention_sinks": ("attention_sinks", 0),
    "heavy_hitters": ("heavy_hitters", 0.05),
    "snapkv": ("snapkv", 0.02),
    "per_head_budget": ({"policy": "per_head_budget", "scorer": "received"}, 0.02),
    "block_memory": ("block_memory", 0.02),
    "block_memory_layers": ({"policy": "block_memory", "local_layers": 1, "dense_layers": 1}, 0.02),
    "quantized": ("quantized", 0.01),
    "quantized_4": ({"policy": "quantized", "bits": 4, "recent": 0}, 0.01),
    "quantized_blocks": ({"policy": "quantized", "inner": "block_memory"}, 0.02),
    "quantized_window": ({"policy": "quantized", "recent": 16, "inner": "sliding_window"}, 0.02),
    "offloaded": ("offloaded", 0.01),
    "offloaded_file": ({"policy": "offloaded", "to": "file", "recent": 64}, 0.01),
    "offloaded_sinks": ({"policy": "offloaded", "recent": 16, "inner": "attention_sinks"}, 0.05),
    "offloaded_quantized": ({"policy": "offloaded", "inner": {"policy": "quantized", "bits": 4}}, 0.01),
}


def held(model: Transformer, policy: Any, text: Text) -> tuple[int, int]:
    """The most on the device, and the most beside it, while a text is read and once it was."""
    cache = make_policy(policy).start(model.config, model.position, text.rows)
    ids = torch.randint(97, (text.rows, text.tokens), generator=torch.Generator().manual_seed(1)).tolist()
    found = [cache.bytes() for _ in read(model, ids, cache, text.chunk, only_last=True)]
    return max(each.device for each in found), max(each.host for each in found)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("text", [Text(900, rows=2, chunk=40), Text(30, chunk=20)], ids=["long", "short"])
def test_planned_is_held(name: str, text: Text) -> None:
    policy, tolerance = CASES[name]
    if text.tokens < 100 and name in ("snapkv", "per_head_budget"):
        pytest.skip("the most is held within the last forward")
    planned = make_policy(policy).plan(CONFIG, text)
    expected = held(MODEL, policy, text)
    for found, exact in zip(planned, expected, strict=True):
        # Tables of a few bytes a block weigh more where blocks are few and heads tiny.
        assert found == pytest.approx(exact, rel=tolerance, abs=3000 if tolerance else 0), (planned, expected)


def test_every_policy_has_a_plan_here() -> None:
    assert set(POLICIES) <= set(CASES)


@pytest.mark.parametrize("policy", ["full", {"policy": "quantized"}], ids=str)
def test_layers_with_a_window_hold_less(policy: Any) -> None:
    text = Text(900, chunk=64)
    model = Transformer(WINDOWED, seed=1).eval().requires_grad_(False)
    planned = make_policy(policy).plan(WINDOWED, text)
    assert tuple(planned) == pytest.approx(held(model, policy, text), rel=0.01, abs=500)
    assert sum(planned) < 0.7 * sum(make_policy(policy).plan(CONFIG, text))


def test_half_precision_is_half() -> None:
    plans = [make_policy("full").plan(CONFIG, Text(5000, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)]
    assert plans[0].device == 2 * plans[1].device


def test_a_large_model_is_planned_at_once() -> None:
    """Llama 3.1 8B at 128k tokens: 2 * 32 layers * 8 heads * 128 * 131,072 tokens * 2 bytes = 17.2 GB, as published."""
    config = ModelConfig(128256, 4096, 32, 32, 8, 128, 14336, max_positions=131072)
    text = Text(131072, dtype=torch.bfloat16)
    assert make_policy("full").plan(config, text).device == 2 * 32 * 8 * 128 * 131072 * 2
    quantized = make_policy({"policy": "quantized", "bits": 4}).plan(config, text)
    assert 0.25 < sum(quantized) / (2 * 32 * 8 * 128 * 131072 * 2) < 0.42


def test_index_of_a_long_text() -> None:
    places, key_KNRD = 5000, torch.randn(2, 5000, 16, 8, generator=torch.Generator().manual_seed(1))
    index = BlockIndex()
    index.written(range(places))
    index.update(key_KNRD, torch.ones(8))
    assert index._lists is not None
    index._lists.scores(torch.ones(2, 1, 1, 8))
    assert planned_index(places, key_KNRD.transpose(0, 1)[:1]) == pytest.approx(index.nbytes(), rel=0.15)
