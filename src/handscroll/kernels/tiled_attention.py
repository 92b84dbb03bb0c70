"""Causal attention for CPUs, tile by tile: exact, fast, and never all of the scores at once.

What FlashAttention (arXiv 2205.14135) does on a GPU, at the size of a CPU's caches: scores exist for one tile of query
rows at a time, keys that no row of the tile sees are not multiplied, and the way back computes the scores anew instead
of keeping them. A tile holds whole rows, so that softmax needs no second pass. It consists of matrix products over
several pairs of (row of the batch, kv head) at once; the query heads of a kv head are rows of one matrix, so that no
key is copied. PyTorch's own CPU kernel does the same with smaller products.

Letters: B batch, T query tokens, S keys, H query heads, K kv heads, G = H / K, D head width, N pairs of (row of the
batch, kv head), R = G * (tokens of a tile) rows of scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Tokens of a tile, and the scores that exist at a time: 1 MiB in float32, about what a core's cache holds.
TILE = 64
SCORES = 1 << 18


def causal_attention(query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for queries that are the last T of S tokens; each sees itself and earlier keys.

    Returns (B, H, T, D). Gradients reach all three.
    """
    out: Tensor = _CausalAttention.apply(query_BHTD, key_BKSD, value_BKSD)  # type: ignore[no-untyped-call]
    return out


class _Tile(NamedTuple):
    """Some pairs, some tokens, and how many keys the last of these tokens sees."""

    pairs: slice
    tokens: slice
    seen: int


def _tiles(pairs: int, group: int, length: int, stored: int) -> Iterator[_Tile]:
    together = max(1, SCORES // (group * min(TILE, length) * stored))
    for first in range(0, pairs, together):
        for start in range(0, length, TILE):
            end = min(length, start + TILE)
            yield _Tile(slice(first, first + together), slice(start, end), stored - length + end)


def _probabilities(query_NRD: Tensor, key_NSD: Tensor, group: int, later: Tensor) -> Tensor:
    """(N, R, S): softmax of the scores of a tile, whose last token sees the last key; queries are already scaled."""
    scores_NRS = torch.bmm(query_NRD, key_NSD.transpose(1, 2))
    tokens = query_NRD.shape[1] // group
    # Only the tile's own tokens can lie in the future of one of them.
    own_NGTT = scores_NRS.view(len(scores_NRS), group, tokens, -1)[..., -tokens:]
    own_NGTT.masked_fill_(later[:tokens, :tokens], float("-inf"))
    return scores_NRS.softmax(dim=-1)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor) -> Tensor:
        batch, heads, length, width = query_BHTD.shape
        kv_heads, stored = key_BKSD.shape[1:3]
        group = heads // kv_heads
        query_NGTD = (query_BHTD / math.sqrt(width)).reshape(batch * kv_heads, group, length, width)
        key_NSD, value_NSD = key_BKSD.flatten(0, 1), value_BKSD.flatten(0, 1)
        later = torch.ones(TILE, TILE, dtype=torch.bool, device=key_NSD.device).triu(1)
        out_NGTD = torch.empty_like(query_NGTD)
        for pairs, tokens, seen in _tiles(batch * kv_heads, group, length, stored):
            query_NRD = query_NGTD[pairs, :, tokens].flatten(1, 2)
            probs_NRS = _probabilities(query_NRD, key_NSD[pairs, :seen], group, later)
            out_NRD = torch.bmm(probs_NRS, value_NSD[pairs, :seen])
            out_NGTD[pairs, :, tokens] = out_NRD.view(len(out_NRD), group, -1, width)
        ctx.save_for_backward(query_NGTD, key_NSD, value_NSD, out_NGTD, later)
        return out_NGTD.view(query_BHTD.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_NGTD, key_NSD, value_NSD, out_NGTD, later = ctx.saved_tensors
        pairs_in_all, group, length, width = query_NGTD.shape
        grad_BHTD = grads[0]
        grad_NGTD = grad_BHTD.reshape(query_NGTD.shape)
        # What softmax's gradient subtracts in each row (FlashAttention, appendix B.4): sum of p * dp = out . d out.
        drift_NGT1 = (grad_NGTD * out_NGTD).sum(-1, keepdim=True)
        grad_query_NGTD = torch.empty_like(query_NGTD)
        grad_key_NSD, grad_value_NSD = torch.zeros_like(key_NSD), torch.zeros_like(value_NSD)
        for pairs, tokens, seen in _tiles(pairs_in_all, group, length, key_NSD.shape[1]):
            query_NRD, grad_NRD, drift_NR1 = (
                x_NGTX[pairs, :, tokens].flatten(1, 2) for x_NGTX in (query_NGTD, grad_NGTD, drift_NGT1)
            )
            key, value = key_NSD[pairs, :seen], value_NSD[pairs, :seen]
            probs_NRS = _probabilities(query_NRD, key, group, later)
            grad_value_NSD[pairs, :seen].baddbmm_(probs_NRS.transpose(1, 2), grad_NRD)
            grad_scores_NRS = torch.baddbmm(drift_NR1, grad_NRD, value.transpose(1, 2), beta=-1).mul_(probs_NRS)
            grad_key_NSD[pairs, :seen].baddbmm_(grad_scores_NRS.transpose(1, 2), query_NRD)
            grad_query_NRD = torch.bmm(grad_scores_NRS, key)
            grad_query_NGTD[pairs, :, tokens] = grad_query_NRD.view(len(grad_query_NRD), group, -1, width)
        grad_query_NGTD /= math.sqrt(width)
        batch = grad_BHTD.shape[0]
        return (
            grad_query_NGTD.view(grad_BHTD.shape),
            grad_key_NSD.view(batch, -1, *grad_key_NSD.shape[1:]),
            grad_value_NSD.view(batch, -1, *grad_value_NSD.shape[1:]),
        )
