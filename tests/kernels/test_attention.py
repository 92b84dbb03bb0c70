"""The fast path of attention equals its slow reference, gradients included, and the reference equals the definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from handscroll.kernels.attention import LONG, additive, attention, attention_with_weights

# Query heads, kv heads, query tokens, keys, head width.
SHAPES = [
    (4, 4, 7, 7, 16),
    (4, 2, 7, 7, 20),
    (8, 2, 33, 33, 24),
    (6, 1, 5, 5, 6),
    (4, 2, 1, 40, 16),
    (6, 2, 1, 1, 8),
    (4, 1, 1, 600, 64),
    (2, 2, 1, 17, 16),
    (6, 2, 9, 40, 16),
    (4, 2, 150, 150, 16),
]
MASKS = ["none", "causal", "shared", "row", "head", "head only", "bias", "bias of a head"]
# Causal means that queries and keys are the same tokens.
CASES = [(shape, kind) for shape in SHAPES for kind in MASKS if kind != "causal" or shape[2] == shape[3]]
BATCH = 3


def inputs(num_heads: int, num_kv_heads: int, length: int, stored: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_heads * 1000 + stored)
    shapes = ((num_heads, length), (num_kv_heads, stored), (num_kv_heads, stored))
    query, key, value = (torch.randn(BATCH, *shape, width, generator=generator).requires_grad_() for shape in shapes)
    return query, key, value


def make_mask(kind: str, num_heads: int, length: int, stored: int) -> Tensor | None:
    if kind in ("none", "causal"):
        return None
    if kind.startswith("bias"):
        visible = make_mask("row", num_heads, length, stored)
        leading = (BATCH, num_heads) if kind == "bias" else (num_heads,)
        bias = -9 * torch.rand(*leading, length, stored, generator=torch.Generator().manual_seed(4))
        return additive(bias, visible, False)
    leading = {"shared": (1, 1), "row": (BATCH, 1), "head": (BATCH, num_heads), "head only": (num_heads,)}[kind]
    mask = torch.rand(*leading, length, stored, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., 0] = True  # a softmax over nothing is NaN in any implementation
    return mask


@pytest.mark.parametrize(("shape", "kind"), CASES, ids=str)
def test_fast_equals_reference(shape: tuple[int, int, int, int, int], kind: str) -> None:
    num_heads, _, length, stored, _ = shape
    query, key, value = inputs(*shape)
    mask = make_mask(kind, num_heads, length, stored)
    fast = attention(query, key, value, mask, kind == "causal")
    slow, weights = attention_with_weights(query, key, value, mask, kind == "causal")
    assert fast.shape == slow.shape == query.shape
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)
    assert weights.shape == (BATCH, num_heads, length, stored)
    torch.testing.assert_close(weights.sum(-1), torch.ones(BATCH, num_heads, length))
    direction = torch.randn(fast.shape, generator=torch.Generator().manual_seed(2))
    fast_grads = torch.autograd.grad(fast, (query, key, value), direction)
    slow_grads = torch.autograd.grad(slow, (query, key, value), direction)
    for fast_grad, slow_grad in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(fast_grad, slow_grad, atol=1e-5, rtol=1e-4)


def test_reference_is_the_definition() -> None:
    """softmax(q k^T / sqrt(D)) v, written out for one head and one query; heads 2 and 3 share kv head 1."""
    query, key, value = (tensor.detach() for tensor in inputs(4, 2, 5, 5, 8))
    out, weights = attention_with_weights(query, key, value, None, True)
    scores = [float(query[1, 3, 2] @ key[1, 1, index]) / math.sqrt(8) for index in range(3)]
    total = sum(map(math.exp, scores))
    expected = [math.exp(score) / total for score in scores]
    torch.testing.assert_close(weights[1, 3, 2], torch.tensor([*expected, 0.0, 0.0]))
    torch.testing.assert_close(out[1, 3, 2], sum(share * value[1, 1, index] for index, share in enumerate(expected)))


def test_hidden_keys_do_not_matter() -> None:
    query, key, value = (tensor.detach() for tensor in inputs(4, 2, 6, 9, 8))
    mask = make_mask("row", 4, 6, 9)
    assert mask is not None
    mask[:, :, :, 5] = False
    before = attention(query, key, value, mask, False)
    key[:, :, 5], value[:, :, 5] = 1e4, -1e4
    assert torch.equal(attention(query, key, value, mask, False), before)


def test_keys_are_not_copied_for_one_query() -> None:
    """A decode step reads the cache once, however many query heads share it."""
    query, key, value = (tensor.detach() for tensor in inputs(8, 1, 1, 512, 64))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        attention(query, key, value, None, False)
    allocated = max(event.cpu_memory_usage for event in profile.events())
    assert allocated < key.nbytes / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_query_behind_many_keys_equals_the_reference(dtype: torch.dtype) -> None:
    """Long enough for the way that only float32 takes."""
    query, key, value = (torch.randn(2, heads, size, 16, dtype=dtype) for heads, size in ((6, 1), (2, LONG), (2, LONG)))
    expected, _ = attention_with_weights(query, key, value, None, False)
    torch.testing.assert_close(attention(query, key, value, None, False), expected, atol=1e-6, rtol=0)


def test_an_additive_mask_is_added_to_scores() -> None:
    """The definition again: one head, one query, with a bias, and later keys hidden by `causal`."""
    query, key, value = (tensor.detach() for tensor in inputs(4, 2, 5, 5, 8))
    bias = torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(0))
    out = attention(query, key, value, additive(bias, None, True), False)
    scores = [float(query[1, 3, 2] @ key[1, 1, index]) / math.sqrt(8) + float(bias[3, 2, index]) for index in range(3)]
    total = sum(map(math.exp, scores))
    expected = sum(math.exp(score) / total * value[1, 1, index] for index, score in enumerate(scores))
    torch.testing.assert_close(out[1, 3, 2], expected)


@pytest.mark.parametrize("length", [1, 6])
def test_a_bias_in_float32_serves_queries_in_half_precision(length: int) -> None:
    query, key, value = (tensor.detach() for tensor in inputs(4, 2, length, 9, 8))
    bias = make_mask("bias", 4, length, 9)
    expected = attention(query, key, value, bias, False)
    half = attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), bias, False)
    torch.testing.assert_close(half.float(), expected, atol=0.03, rtol=0)
