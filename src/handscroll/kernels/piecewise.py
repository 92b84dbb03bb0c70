"""Attention over keys that come in pieces, so that no more than one of them has to be there at a time.

The softmax over all pieces is put together from each piece's maximum and sum, as in `flash_attention`, which has the
step that is taken here and a backward. What needs no mask of its own is left to PyTorch's fused kernel for CPUs, which
also tells the logarithm of each query's sum: 1.5 times as fast as scores that are written down, and 3 times where keys
are as new as the queries, since half of these scores are hidden.

Letters: B batch, T query tokens, S keys of a piece, H heads, K kv heads, G = H / K, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.kernels.flash_attention import add_tile, nothing_yet, scores_of

# Scores that exist at a time.
SCORES = 1 << 22
# Queries, keys, values, dropout and whether it is causal -> (B, H, T, D), and (B, H, T): the logarithm of each sum.
FUSED = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


class Piece(NamedTuple):
    """Keys and values (B, K, S, D), and who sees them.

    mask: as in `attention`, broadcastable to (B, H, T, S); None: all queries see all keys, but for `first_query`: the
    one that sees the piece's first key and no other, as each later one sees one key more, and no earlier one sees any.
    """

    key_BKSD: Tensor
    value_BKSD: Tensor
    mask: Tensor | None
    first_query: int | None = None


def goes_fused(query_BHTD: Tensor) -> bool:
    """Whether what needs no mask of its own is left to the fused kernel: its logarithms have no gradient."""
    return FUSED is not None and query_BHTD.device.type == "cpu" and not torch.is_grad_enabled()


def attention_over(query_BHTD: Tensor, pieces: Iterable[Piece]) -> Tensor:
    """What `attention` gives for all pieces side by side: (B, H, T, D). Each piece is visited once.

    A query that sees no key of any piece gets zeros.
    """
    batch, num_heads, length, width = query_BHTD.shape
    out_BHTD, highest_BHT1, total_BHT1 = nothing_yet(query_BHTD)
    scaled_BHTD, is_fused = query_BHTD / math.sqrt(width), goes_fused(query_BHTD)
    for piece in pieces:
        if piece.mask is None and is_fused:
            for span, is_causal in _parts(piece, length):
                sums = (running[:, :, span] for running in (out_BHTD, highest_BHT1, total_BHT1))
                _add_fused(query_BHTD[:, :, span], piece, is_causal, *sums)
            continue
        mask = _mask(piece, query_BHTD)
        step = max(1, SCORES // (batch * num_heads * piece.key_BKSD.shape[2]))
        for first in range(0, length, step):
            span = slice(first, first + step)
            part = mask if mask is None or mask.shape[-2] == 1 else mask[..., span, :]
            scores_BHTS = scores_of(scaled_BHTD[:, :, span], piece.key_BKSD, True if part is None else part)
            sums = (running[:, :, span] for running in (out_BHTD, highest_BHT1, total_BHT1))
            add_tile(scores_BHTS, piece.value_BKSD, *sums)
    return (out_BHTD / total_BHT1.clamp(min=torch.finfo(torch.float32).tiny)).to(query_BHTD.dtype)


def _mask(piece: Piece, query_BHTD: Tensor) -> Tensor | None:
    """The piece's mask, written down where `first_query` says it: (T, S)."""
    if piece.first_query is None:
        return piece.mask
    queries_T1 = torch.arange(query_BHTD.shape[2], device=query_BHTD.device)[:, None]
    return torch.arange(piece.key_BKSD.shape[2], device=query_BHTD.device) <= queries_T1 - piece.first_query


def _parts(piece: Piece, length: int) -> Iterator[tuple[slice, bool]]:
    """Queries that see all keys of the piece, and those among which each sees one more than the one before it."""
    past = 0
    if piece.first_query is not None:
        past = min(length, piece.first_query + piece.key_BKSD.shape[2])
        yield slice(piece.first_query, past), True
    if past < length:
        yield slice(past, length), False


def _add_fused(
    query_BHTD: Tensor, piece: Piece, is_causal: bool, out_BHTD: Tensor, highest_BHT1: Tensor, total_BHT1: Tensor
) -> None:
    """Adds a piece by its softmax, as if that were one key whose score is the logarithm of the sum (mutates sums)."""
    assert FUSED is not None
    batch, num_heads, _, width = query_BHTD.shape
    key_BKSD, value_BKSD = piece.key_BKSD, piece.value_BKSD
    if is_causal:
        group = num_heads // key_BKSD.shape[1]
        key_BKSD, value_BKSD = (x.repeat_interleave(group, dim=1) for x in (key_BKSD, value_BKSD))
    # Where order doesn't matter, a kv head's query heads are rows of one product.
    asking_BKRD = query_BHTD.reshape(batch, key_BKSD.shape[1], -1, width)
    found_BKRD, log_sum_BKR = FUSED(asking_BKRD, key_BKSD, value_BKSD, 0.0, is_causal)
    found_BHTD, log_sum_BHT1 = found_BKRD.reshape(out_BHTD.shape), log_sum_BKR.reshape(highest_BHT1.shape)
    higher_BHT1 = torch.maximum(highest_BHT1, log_sum_BHT1)
    kept_BHT1, weight_BHT1 = (highest_BHT1 - higher_BHT1).exp_(), (log_sum_BHT1 - higher_BHT1).exp_()
    out_BHTD.mul_(kept_BHT1).addcmul_(found_BHTD.to(out_BHTD.dtype), weight_BHT1)
    total_BHT1.mul_(kept_BHT1).add_(weight_BHT1)
    highest_BHT1.copy_(higher_BHT1)
