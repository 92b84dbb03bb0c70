"""FlashAttention equals the slow reference, gradients included, under every kind of mask, and holds no T x S of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from handscroll.kernels import flash_attention as flash
from handscroll.kernels.attention import attention_with_weights
from handscroll.kernels.flash_attention import Sight, causal_sight, flash_attention

TILE = 16
# Query heads, kv heads, query tokens, keys, head width: within a tile, at its border, past it, and fewer queries.
SHAPES = [
    (2, 2, 1, 1, 8),
    (4, 2, 16, 16, 6),
    (4, 1, 17, 17, 8),
    (6, 2, 43, 43, 20),
    (4, 4, 5, 60, 8),
    (4, 2, 33, 50, 8),
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "TILE", TILE)


def inputs(num_heads: int, num_kv_heads: int, length: int, stored: int, width: int, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(stored)
    shapes = ((length, num_heads), (stored, num_kv_heads), (stored, num_kv_heads))
    # Laid out as projections lay them: heads are no contiguous dimension.
    drawn = (torch.randn(batch, *shape, width, generator=generator).transpose(1, 2) for shape in shapes)
    return [tensor.requires_grad_() for tensor in drawn]


def cut(mask: Tensor) -> Sight:
    """The sight that a whole mask is."""

    def sight(queries: slice, keys: slice) -> Tensor | bool:
        tile = mask[..., queries, keys]
        if tile.dtype != torch.bool:
            return tile
        return tile if tile.any() and not tile.all() else bool(tile.any())

    return sight


def distances(length: int, stored: int) -> Tensor:
    return torch.arange(stored - length, stored)[:, None] - torch.arange(stored)


def window(heads: int, length: int, stored: int) -> Tensor:
    distance_TS = distances(length, stored)
    return (distance_TS >= 0) & (distance_TS < 7)


def documents(heads: int, length: int, stored: int) -> Tensor:
    """Three documents in a row of the batch, two in the other, none sees another."""
    document_BS = torch.stack([torch.arange(stored) * parts // stored for parts in (3, 2)])
    same_BTS = document_BS[:, stored - length :, None] == document_BS[:, None]
    return (same_BTS & (distances(length, stored) >= 0))[:, None]


def padding(heads: int, length: int, stored: int) -> Tensor:
    """The second row's last quarter is padding, which sees its first key only and is seen by nobody."""
    real_B1S = torch.arange(stored) < torch.tensor([stored, max(1, stored * 3 // 4)])[:, None, None]
    return (real_B1S & (distances(length, stored) >= 0))[:, None] | (torch.arange(stored) == 0)


def alibi(heads: int, length: int, stored: int) -> Tensor:
    slopes_H11 = 2.0 ** -torch.arange(1, heads + 1)[:, None, None]
    distance_TS = distances(length, stored)
    return torch.where(distance_TS >= 0, -slopes_H11 * distance_TS, float("-inf"))


MASKS: dict[str, Callable[[int, int, int], Tensor]] = {
    each.__name__: each for each in (window, documents, padding, alibi)
}


@pytest.mark.parametrize("mask", ["causal", *MASKS])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(shape: tuple[int, int, int, int, int], mask: str) -> None:
    query, key, value = inputs(*shape)
    heads, _, length, stored, _ = shape
    whole = distances(length, stored) >= 0 if mask == "causal" else MASKS[mask](heads, length, stored)
    sight = causal_sight(length, stored) if mask == "causal" else cut(whole)
    ours = flash_attention(query, key, value, sight)
    slow, _ = attention_with_weights(query, key, value, whole, False)
    torch.testing.assert_close(ours, slow, atol=1e-5, rtol=0)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    gradients = (torch.autograd.grad(out, (query, key, value), direction) for out in (ours, slow))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_the_gradient_is_the_derivative() -> None:
    """PyTorch's finite differences, in float64."""
    query, key, value = (x.detach().double().requires_grad_() for x in inputs(2, 1, 18, 18, 3, batch=1))
    sight = causal_sight(18, 18)
    assert torch.autograd.gradcheck(lambda *given: flash_attention(*given, sight), (query, key, value), fast_mode=True)


def test_who_sees_nothing_gets_zeros_and_no_gradient() -> None:
    query, key, value = inputs(2, 1, 20, 20, 8)
    blind = torch.ones(20, 20, dtype=torch.bool).tril()
    blind[:17] = False
    out = flash_attention(query, key, value, cut(blind))
    assert torch.equal(out[:, :, :17], torch.zeros_like(out[:, :, :17]))
    gradients = torch.autograd.grad(out.square().sum(), (query, key, value))
    assert all(grad.isfinite().all() for grad in gradients)
    assert torch.equal(gradients[0][:, :, :17], torch.zeros_like(out[:, :, :17]))


def test_hidden_tiles_are_not_computed() -> None:
    """Of 4 x 4 tiles causality hides 6, a window of a tile's size 9; of each direction."""
    for mask, seen in ((distances(64, 64) >= 0, 10), (window(1, 64, 64), 7)):
        query, key, value = inputs(1, 1, 64, 64, 8, batch=1)
        with Watch() as watch:
            flash_attention(query, key, value, cut(mask)).sum().backward()
        # A tile is two products forward and five backward.
        assert watch.products == seen * 7


class Watch(TorchDispatchMode):
    """The largest tensor that anybody makes, in numbers, and how many matrix products there are."""

    largest, products = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.largest = max([self.largest, *(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))])
        self.products += func in (torch.ops.aten.bmm.default, torch.ops.aten.mm.default)
        return out


def test_no_tensor_is_larger_than_the_queries() -> None:
    """Whatever the length: (B, H, T, D), forward and backward, where the reference has (B, H, T, S)."""
    for length in (64, 128, 256):
        query, key, value = inputs(4, 2, length, length, 8)
        with Watch() as watch:
            flash_attention(query, key, value, causal_sight(length, length)).sum().backward()
        assert watch.largest == query.numel() == 2 * 4 * length * 8
        with Watch() as watch:
            attention_with_weights(query, key, value, None, True)[0].sum().backward()
        assert watch.largest == 2 * 4 * length * length


def test_half_precision_sums_in_float32() -> None:
    query, key, value = (x.detach().bfloat16() for x in inputs(4, 2, 40, 40, 8))
    out = flash_attention(query, key, value, causal_sight(40, 40))
    exact, _ = attention_with_weights(query.float(), key.float(), value.float(), None, True)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, atol=2e-2, rtol=0)
