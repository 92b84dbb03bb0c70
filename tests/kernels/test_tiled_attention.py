"""Tiled attention equals the slow reference and PyTorch's kernel, gradients included, and holds no T x T scores."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from handscroll.kernels import tiled_attention
from handscroll.kernels.attention import attention, attention_with_weights
from handscroll.kernels.tiled_attention import TILE, causal_attention

# Query heads, kv heads, query tokens, keys, head width: within a tile, at its border, past it, and fewer queries.
SHAPES = [
    (2, 2, 1, 1, 8),
    (4, 2, TILE, TILE, 16),
    (4, 1, TILE + 1, TILE + 1, 6),
    (6, 2, 3 * TILE - 5, 3 * TILE - 5, 20),
    (4, 2, TILE + 9, 3 * TILE + 2, 16),
    (4, 4, 1, 70, 16),
]


def inputs(num_heads: int, num_kv_heads: int, length: int, stored: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(stored)
    shapes = ((length, num_heads), (stored, num_kv_heads), (stored, num_kv_heads))
    # Laid out as projections lay them: heads are no contiguous dimension.
    drawn = (torch.randn(3, *shape, width, generator=generator).transpose(1, 2) for shape in shapes)
    return [tensor.requires_grad_() for tensor in drawn]


@pytest.mark.parametrize("scores", [1, 1 << 18])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_reference_and_torch(
    shape: tuple[int, int, int, int, int], scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled_attention, "SCORES", scores)
    query, key, value = inputs(*shape)
    length, stored = shape[2:4]
    mask = torch.ones(length, stored, dtype=torch.bool).tril(stored - length)
    ours = causal_attention(query, key, value)
    slow, _ = attention_with_weights(query, key, value, mask, False)
    theirs = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad(out, (query, key, value), direction) for out in (ours, slow, theirs)]
    for other, grads in ((slow, gradients[1]), (theirs, gradients[2])):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=0)
        for mine, given in zip(gradients[0], grads, strict=True):
            torch.testing.assert_close(mine, given, atol=1e-5, rtol=1e-4)


def test_training_on_a_cpu_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("handscroll.kernels.attention.causal_attention", lambda *given: calls.append(given))
    query, key, value = inputs(4, 2, 9, 9, 16)
    attention(query, key, value, None, True)
    assert len(calls) == 1
    attention(query.detach(), key.detach(), value.detach(), None, True)
    attention(query, key, value, torch.ones(9, 9, dtype=torch.bool), False)
    assert len(calls) == 1


def test_memory_grows_with_the_length_not_its_square() -> None:
    peaks = []
    for length in (512, 2048):
        query, key, value = inputs(2, 1, length, length, 8)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            causal_attention(query, key, value).sum().backward()
        peaks.append(max(event.cpu_memory_usage for event in profile.events()))
    assert peaks[1] < 8 * peaks[0]
