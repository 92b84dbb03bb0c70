"""Attention over keys that come in pieces, so that no more than one of them has to be there at a time.

The softmax over all pieces is put together from each piece's maximum and sum, as in `flash_attention`, which has the
step that is taken here and a backward.

Letters: B batch, T query tokens, S keys of a piece, H heads, K kv heads, G = H / K, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.kernels.flash_attention import add_tile, nothing_yet, scores_of

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
    out_BHTD, highest_BHT1, total_BHT1 = nothing_yet(query_BHTD)
    scaled_BHTD = query_BHTD / math.sqrt(width)
    for key_BKSD, value_BKSD, mask in pieces:
        step = max(1, SCORES // (batch * num_heads * key_BKSD.shape[2]))
        for first in range(0, length, step):
            span = slice(first, first + step)
            part = mask if mask is None or mask.shape[-2] == 1 else mask[..., span, :]
            scores_BHTS = scores_of(scaled_BHTD[:, :, span], key_BKSD, True if part is None else part)
            sums = (running[:, :, span] for running in (out_BHTD, highest_BHT1, total_BHT1))
            add_tile(scores_BHTS, value_BKSD, *sums)
    return (out_BHTD / total_BHT1.clamp(min=torch.finfo(torch.float32).tiny)).to(query_BHTD.dtype)
