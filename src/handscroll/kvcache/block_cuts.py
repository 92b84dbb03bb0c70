"""Where blocks end: after a fixed number of tokens, or where a sentence does.

Semantic blocks: a fact that a sentence tells stands in one block, whole. A block has at most `block` tokens and ends
behind the last break in its second half, if there is one. Which index a block ends at follows from the text before it
alone, never from the caller's chunks.

Letters: N blocks, K kv heads, L tokens of a block, S slots, R representatives, D head width.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from handscroll.model.layout import Layout

if TYPE_CHECKING:
    from handscroll.kvcache.block_memory import Sizes


def block_ends(start: int, until: int, sizes: Sizes, breaks: Sequence[int]) -> list[int]:
    """The index behind each block that is cut from `start` on, until every token before `until` is in one.

    `breaks`: indices of tokens that end a sentence, in ascending order.
    """
    ends = []
    while start < until:
        end = start + sizes.block
        if sizes.shortest < sizes.block:
            last = bisect_left(breaks, end) - 1
            if last >= 0 and breaks[last] + 1 >= start + sizes.shortest:
                end = breaks[last] + 1
        ends.append(end)
        start = end
    return ends


def split(x_KSD: Tensor, lengths: Sequence[int], block: int) -> Tensor:
    """(N, K, L, D): tokens side by side as blocks of these lengths; zeros fill those that are shorter than L."""
    if set(lengths) == {block}:
        return x_KSD.reshape(len(x_KSD), -1, block, x_KSD.shape[2]).transpose(0, 1)
    alone = torch.split(x_KSD, list(lengths), dim=1)
    return torch.stack([torch.nn.functional.pad(x_KLD, (0, 0, 0, block - x_KLD.shape[1])) for x_KLD in alone])


def join(x_KSD: Tensor, lengths_N: Tensor, block: int) -> Tensor:
    """(K, S, D): blocks of L places side by side, without the places that `split` had filled."""
    if int(lengths_N.sum()) == x_KSD.shape[1]:
        return x_KSD
    filled_S = (torch.arange(block) < lengths_N[:, None]).flatten().to(x_KSD.device)
    return x_KSD[:, filled_S]


def represent(
    kind: Callable[[Tensor, Tensor | None, int], Tensor],
    key_NKLD: Tensor,
    received_NKL: Tensor,
    lengths: Sequence[int],
    number: int,
) -> Tensor:
    """(N, K, R, D): the representatives of blocks of these lengths, made of real tokens only."""
    if set(lengths) == {key_NKLD.shape[2]}:
        return kind(key_NKLD, received_NKL, number)
    alone = [
        kind(key_KLD[None, :, :length], received_KL[None, :, :length], number)
        for key_KLD, received_KL, length in zip(key_NKLD, received_NKL, lengths, strict=True)
    ]
    return torch.cat(alone)


def lengths_of(start: int, ends: Sequence[int]) -> list[int]:
    return [end - first for first, end in pairwise((start, *ends))]


def breaks_of(layout: Layout) -> list[list[int]]:
    """For each row the indices of its tokens that end a sentence."""
    assert layout.ends_BT is not None and layout.starts is not None and layout.lengths is not None
    rows = zip(layout.ends_BT, layout.starts, layout.lengths, strict=True)
    return [(ends_T[:length].nonzero()[:, 0] + start).tolist() for ends_T, start, length in rows]
