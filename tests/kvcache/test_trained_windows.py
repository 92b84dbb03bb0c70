"""A model with a sliding window of its own: it holds under every policy, and the narrower of two windows wins."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from handscroll.kvcache import make_policy
from handscroll.model import Cache, Layout, ModelConfig, Transformer
from handscroll.model.position import DynamicOptions

WINDOW = 32
LENGTH = 150
CONFIG = ModelConfig(97, 64, 3, 4, 2, 16, 96, max_positions=256, sliding_window=WINDOW)


def made(**changes: Any) -> Transformer:
    return Transformer(dataclasses.replace(CONFIG, **changes), seed=1).eval().requires_grad_(False)


def tokens(length: int = LENGTH) -> Tensor:
    return torch.randint(97, (2, length), generator=torch.Generator().manual_seed(3))


def start(model: Transformer, policy: Any) -> Cache:
    return make_policy(policy).start(model.config, model.position, 2)


def feed(model: Transformer, cache: Cache, tokens_BT: Tensor, chunks: tuple[int, ...]) -> Tensor:
    rows, total = tokens_BT.shape

    def logits(piece_BT: Tensor) -> Tensor:
        layout = Layout.rows([piece_BT.shape[1]] * rows, cache.lengths, totals=[total] * rows)
        return model(piece_BT, layout, cache)

    return torch.cat([logits(piece_BT) for piece_BT in tokens_BT.split(chunks, dim=1)], dim=1)


@pytest.mark.parametrize(
    "changes", [{}, {"windowed_from": 2}, {"position": DynamicOptions(factor=2.0), "max_positions": 64}], ids=str
)
@pytest.mark.parametrize(
    "policy",
    [
        "full",
        {"policy": "sliding_window", "window": 300},
        {"policy": "offloaded"},
        {"policy": "snapkv", "share": 1.0},
        {"policy": "per_head_budget", "share": 1.0},
        {"policy": "heavy_hitters", "positions": "text", "heavy": 75, "recent": 75},
    ],
    ids=str,
)
def test_a_cache_of_what_can_be_seen_changes_nothing(changes: dict[str, Any], policy: Any) -> None:
    model, tokens_BT = made(**changes), tokens()
    expected = model(tokens_BT)
    assert not torch.allclose(expected, made(**changes | {"sliding_window": None, "windowed_from": 0})(tokens_BT))
    for chunks in ((LENGTH,), (70, *[1] * 10, 70)):
        found = feed(model, start(model, policy), tokens_BT, chunks)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_the_narrower_window_wins() -> None:
    model, tokens_BT = made(windowed_from=2), tokens()
    narrow = start(model, {"policy": "sliding_window", "window": 10})
    expected = made(sliding_window=10)(tokens_BT)
    torch.testing.assert_close(feed(model, narrow, tokens_BT, (LENGTH,)), expected, atol=2e-5, rtol=0)


def test_a_layer_with_a_window_keeps_no_more_than_it_can_see() -> None:
    model = made(windowed_from=2)
    cache = start(model, "full")
    feed(model, cache, tokens(1200), (60,) * 20)
    held = [layer.bytes().device for layer in cache.layers]
    assert held[0] == held[1] > 8 * held[2]


@pytest.mark.parametrize(
    "policy", ["attention_sinks", "heavy_hitters", "block_memory", {"policy": "quantized"}], ids=str
)
def test_what_is_attended_to_fits_into_the_window(policy: Any) -> None:
    """As far as a policy's budget covers the text the window does, too; behind it no distance exceeds it."""
    model, tokens_BT = made(), tokens(14)
    expected = model(tokens_BT)
    cache = start(model, policy)
    torch.testing.assert_close(feed(model, cache, tokens_BT, (14,)), expected, atol=2e-5, rtol=0)
    assert feed(model, cache, tokens(), (LENGTH,)).isfinite().all()
    sizes = getattr(make_policy(policy), "sizes", None)
    if sizes is not None:
        assert sizes(model.config.trained_window).attended <= WINDOW


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": 0}, "sliding_window=0: a token sees at least itself"),
        ({"windowed_from": 3}, "windowed_from=3: the layers are 0 to 2"),
    ],
)
def test_impossible_windows(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
