"""Block-sparse attention equals the slow reference under the same mask, gradients included, and never holds N x N."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from handscroll.kernels import block_sparse
from handscroll.kernels.attention import attention_with_weights
from handscroll.kernels.block_sparse import block_sparse_attention

LENGTH = 4


def inputs(heads: int, kv_heads: int, queries: int, keys: int, width: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(queries + keys)
    shapes = ((queries, heads), (keys, kv_heads), (keys, kv_heads))
    drawn = (torch.randn(2, *shape, width, generator=generator).transpose(1, 2) for shape in shapes)
    return [tensor.requires_grad_() for tensor in drawn]


def pattern(rows: int, blocks: int, key_blocks: int, listed: int, heads: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """A table of different blocks, a mask of which every query sees a key, and both as one mask of all tokens."""
    generator = torch.Generator().manual_seed(blocks)
    drawn = [torch.randperm(key_blocks, generator=generator)[:listed] for _ in range(rows * blocks)]
    table_BNM = torch.stack(drawn).view(rows, blocks, listed)
    mask = torch.rand(rows, heads or 1, blocks, LENGTH, listed * LENGTH, generator=generator) < 0.6
    mask[..., 1] = True
    dense = torch.zeros(rows, heads or 1, blocks, LENGTH, key_blocks, LENGTH, dtype=torch.bool)
    for row in range(rows):
        for block in range(blocks):
            seen = mask[row, :, block].unflatten(-1, (listed, LENGTH))
            dense[row, :, block][:, :, table_BNM[row, block]] = seen
    dense_BHTS = dense.flatten(2, 3).flatten(3, 4)
    if heads is None:
        return table_BNM, mask[:, 0], dense_BHTS
    bias = torch.randn(dense_BHTS.shape, generator=generator)
    dense_BHTS = torch.where(dense_BHTS, bias, float("-inf"))
    places = bias.view(rows, heads, blocks, LENGTH, key_blocks, LENGTH)
    picked = torch.stack(
        [
            torch.stack([places[row, :, block][:, :, table_BNM[row, block]] for block in range(blocks)], 1)
            for row in range(rows)
        ]
    )
    return table_BNM, torch.where(mask, picked.flatten(-2), float("-inf")), dense_BHTS


@pytest.mark.parametrize("scores", [1, 1 << 20])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "blocks", "key_blocks", "biased"),
    [(4, 4, 5, 5, False), (4, 2, 5, 5, True), (6, 1, 1, 7, False), (2, 2, 3, 7, True)],
)
def test_equals_reference(
    heads: int,
    kv_heads: int,
    blocks: int,
    key_blocks: int,
    biased: bool,
    rows: int,
    scores: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(block_sparse, "SCORES", scores)
    given = inputs(heads, kv_heads, blocks * LENGTH, key_blocks * LENGTH)
    table_BNM, mask, dense = pattern(rows, blocks, key_blocks, 3, heads if biased else None)
    ours = block_sparse_attention(*given, table_BNM, mask)
    slow, _ = attention_with_weights(*given, dense, False)
    torch.testing.assert_close(ours, slow, atol=1e-5, rtol=0)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(*(torch.autograd.grad(out, given, direction) for out in (ours, slow)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_half_precision_stays_half() -> None:
    query, key, value = (x.detach().bfloat16().requires_grad_() for x in inputs(4, 2, 20, 20))
    table_BNM, mask, dense = pattern(1, 5, 5, 3, None)
    ours = block_sparse_attention(query, key, value, table_BNM, mask)
    slow, _ = attention_with_weights(query.float(), key.float(), value.float(), dense, False)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), slow, atol=0.03, rtol=0)
    ours.sum().backward()
    assert key.grad is not None and key.grad.dtype == torch.bfloat16


def test_memory_grows_with_the_length_not_its_square() -> None:
    peaks = []
    for blocks in (512, 2048):
        query, key, value = inputs(2, 1, blocks * LENGTH, blocks * LENGTH)
        table_BNM = torch.arange(blocks)[None, :, None]
        mask = torch.ones(1, blocks, LENGTH, LENGTH, dtype=torch.bool)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            block_sparse_attention(query, key, value, table_BNM, mask).sum().backward()
        peaks.append(max(event.cpu_memory_usage for event in profile.events()))
    assert peaks[1] < 5 * peaks[0]
