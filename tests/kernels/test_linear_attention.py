"""Linear attention in chunks, as a state and all at once equals the reference with weights, and that the equation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from handscroll.kernels import linear_attention as kernel
from handscroll.kernels.linear_attention import (
    Features,
    causal_linear_attention,
    empty_state,
    feature_map,
    linear_attention,
    linear_attention_with_weights,
)
from handscroll.model.position.rope import Rope
from handscroll.model.slots import RopeOptions

HEADS, KV_HEADS, TOKENS, WIDTH = 4, 2, 23, 6


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "CHUNK", 5)


def inputs() -> tuple[list[Tensor], Features, Features, Tensor]:
    """What gradients are asked of, and queries, keys and values made of it."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, heads, TOKENS, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS))
    query, key, value = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    rope = Rope(WIDTH, RopeOptions(), TOKENS)
    rotation = rope.rotation(torch.arange(TOKENS))
    query_features, key_features = (
        Features(feature_map(x), rope.rotate(feature_map(x), rotation)) for x in (query, key)
    )
    return [query, key, value], query_features, key_features, value


def test_reference_is_equation_19_of_roformer() -> None:
    """Sums over earlier tokens, written out: rotations in the numerator alone."""
    (raw_query, raw_key, value), query, key, _ = inputs()
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    out, weights = linear_attention_with_weights(query, key, value, mask)
    turn = torch.zeros(TOKENS, WIDTH, WIDTH)
    for place in range(TOKENS):
        for pair in range(WIDTH // 2):
            angle = torch.tensor(place * 10000.0 ** (-2 * pair / WIDTH))
            first, second = pair, pair + WIDTH // 2
            turn[place, first, first] = turn[place, second, second] = angle.cos()
            turn[place, second, first], turn[place, first, second] = angle.sin(), -angle.sin()
    phi = {name: torch.nn.functional.elu(x) + 1 for name, x in (("q", raw_query), ("k", raw_key))}
    for head in range(HEADS):
        q, k, v = phi["q"][1, head], phi["k"][1, head // 2], value[1, head // 2]
        for m in (0, 7, TOKENS - 1):
            above = sum((turn[m] @ q[m]) @ (turn[n] @ k[n]) * v[n] for n in range(m + 1))
            below = sum(q[m] @ k[n] for n in range(m + 1))
            torch.testing.assert_close(out[1, head, m], above / below, atol=1e-5, rtol=1e-5)
    assert not weights[:, :, 3, 4:].any()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("way", ["causal", "two portions", "token by token", "bidirectional"])
def test_equals_reference(way: str) -> None:
    leaves, query, key, value = inputs()
    mask = None if way == "bidirectional" else torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    slow, _ = linear_attention_with_weights(query, key, value, mask)
    if way == "bidirectional":
        ours = linear_attention(query, key, value)
    else:
        sizes = {"causal": [TOKENS], "two portions": [9, TOKENS - 9], "token by token": [1] * TOKENS}[way]
        state, outs, first = empty_state(value), [], 0
        for size in sizes:
            span = slice(first, first + size)
            parts = (Features(*(x[:, :, span] for x in each)) for each in (query, key))
            out, state = causal_linear_attention(*parts, value[:, :, span], state)
            outs.append(out)
            first += size
        ours = torch.cat(outs, 2)
    torch.testing.assert_close(ours, slow, atol=1e-5, rtol=1e-5)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    grads = (torch.autograd.grad(out, leaves, direction, retain_graph=True) for out in (ours, slow))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("small_chunks")
def test_a_chunk_that_restarts_knows_nothing_of_earlier_ones() -> None:
    leaves, query, key, value = inputs()
    restarts = torch.tensor([[True, False, True, False, False]])
    ours, _ = causal_linear_attention(query, key, value, empty_state(value), restarts)
    alone, _ = causal_linear_attention(
        *(Features(*(x[:, :, 10:] for x in each)) for each in (query, key)), value[:, :, 10:], empty_state(value)
    )
    assert torch.equal(ours[:, :, 10:], alone)
    (grad,) = torch.autograd.grad(ours[:, :, 10:].sum(), leaves[1])
    assert not grad[:, :, :10].any()


def test_memory_grows_with_the_length_not_its_square() -> None:
    peaks = []
    for length in (256, 1024):
        query, key, value = (torch.randn(1, 2, length, 8, requires_grad=True) for _ in "qkv")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            features = (Features(feature_map(x), feature_map(x)) for x in (query, key))
            causal_linear_attention(*features, value, empty_state(value))[0].sum().backward()
        peaks.append(max(event.cpu_memory_usage for event in profile.events()))
    assert peaks[1] < 5 * peaks[0]


def test_autocast_leaves_the_sums_in_float32() -> None:
    _, query, key, value = inputs()
    expected, state = causal_linear_attention(query, key, value, empty_state(value))
    with torch.autocast("cpu", torch.bfloat16):
        ours, held = causal_linear_attention(query, key, value, empty_state(value))
        whole = linear_attention(query, key, value)
    assert torch.equal(ours, expected) and torch.equal(held.product_BKDD, state.product_BKDD)
    torch.testing.assert_close(whole[:, :, -1], expected[:, :, -1], atol=1e-5, rtol=1e-5)
