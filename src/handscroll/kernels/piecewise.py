"""Attention over keys that come in pieces, so that no more than one of them has to be there at a time.

The softmax over all pieces is put together from each piece's maximum and sum (online softmax, arXiv 1805.02867;
FlashAttention, arXiv 2205.14135, section 3.1).

Letters: B batch, T query tokens, S keys of a piece, H heads, K kv heads, G = H / K, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

# Scores that exist at a time.
SCORES = 1 << 22


class Piece(NamedTuple):
    """Keys and values (B, K, S, D); `mask` as in `attention`: broadcastable to (B, H, T, S), None where all is seen."""

    key_BKSD: Tensor
    value_BKSD: Tensor
    mask: Tensor | None


def attention_over(query_BHTD: Tensor, pieces: Iterable[Piece]) -> Tensor:
    """What `attention` gives for all pieces side by side: (B, H, T, D). Each piece is visited once.

    A query that sees no key of any piece gets zeros.
    """
    batch, num_heads, length, width = query_BHTD.shape
    out_BHTD = torch.zeros(query_BHTD.shape, dtype=torch.float32, device=query_BHTD.device)
    highest_BHT1 = out_BHTD.new_full((batch, num_heads, length, 1), float("-inf"))
    total_BHT1 = torch.zeros_like(highest_BHT1)
    scaled_BHTD = query_BHTD / math.sqrt(width)
    for key_BKSD, value_BKSD, mask in pieces:
        step = max(1, SCORES // (batch * num_heads * key_BKSD.shape[2]))
        for first in range(0, length, step):
            span = slice(first, first + step)
            part = mask if mask is None or mask.shape[-2] == 1 else mask[..., span, :]
            _add(
                scaled_BHTD[:, :, span],
                Piece(key_BKSD, value_BKSD, part),
                out_BHTD[:, :, span],
                highest_BHT1[:, :, span],
                total_BHT1[:, :, span],
            )
    return (out_BHTD / total_BHT1.clamp(min=torch.finfo(torch.float32).tiny)).to(query_BHTD.dtype)


def _add(scaled_BHTD: Tensor, piece: Piece, out_BHTD: Tensor, highest_BHT1: Tensor, total_BHT1: Tensor) -> None:
    """Adds one piece to running sums that are relative to the highest score so far (mutates the last three)."""
    batch, num_heads, length, width = scaled_BHTD.shape
    num_kv_heads, stored = piece.key_BKSD.shape[1:3]
    # The heads of a group become rows, so that no key is repeated.
    folded_BKRD = scaled_BHTD.reshape(batch, num_kv_heads, -1, width)
    scores_BHTS = (folded_BKRD @ piece.key_BKSD.transpose(-1, -2)).float().view(batch, num_heads, length, stored)
    if piece.mask is not None:
        if piece.mask.dtype == torch.bool:
            scores_BHTS.masked_fill_(~piece.mask, float("-inf"))
        else:
            scores_BHTS += piece.mask
    higher_BHT1 = torch.maximum(highest_BHT1, scores_BHTS.amax(dim=-1, keepdim=True))
    # Where nothing was seen so far, any finite number does: all terms are exp(-inf).
    base_BHT1 = higher_BHT1.masked_fill(higher_BHT1 == float("-inf"), 0)
    fading_BHT1 = (highest_BHT1 - base_BHT1).exp_()
    weights_BHTS = scores_BHTS.sub_(base_BHT1).exp_()
    total_BHT1.mul_(fading_BHT1).add_(weights_BHTS.sum(dim=-1, keepdim=True))
    weights_BKRS = weights_BHTS.view(batch, num_kv_heads, -1, stored).to(piece.value_BKSD.dtype)
    out_BHTD.mul_(fading_BHT1).add_((weights_BKRS @ piece.value_BKSD).view(out_BHTD.shape))
    highest_BHT1.copy_(higher_BHT1)
