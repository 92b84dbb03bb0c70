"""FlashAttention in the open: exact attention, tile by tile, forward and backward, that never holds T x S of anything.

The forward is algorithm 1 of FlashAttention-2 (arXiv 2307.08691): for a tile of queries, keys come tile by tile, and
the softmax over all of them is put together from each tile's maximum and sum (online softmax, arXiv 1805.02867). Kept
are the output and one number per query, the logarithm of its softmax's sum. The backward is algorithm 2 (algorithm 4
of arXiv 2205.14135): probabilities are computed anew from that number, tile by tile, so that memory grows with T.

Who sees whom comes as a function of a tile (`Sight`): a mask of T x S would undo it all. A tile that is wholly hidden
is not computed.

Three files compute attention in tiles. This one is to be read, and takes any sight on any device; `tiled_attention` is
what training on a CPU runs under a plain causal mask, with tiles of whole rows, which need no second pass;
`piecewise` goes once over keys that aren't there all at a time, with this file's step, and has no backward.

Letters: B batch, T query tokens, S keys, H query heads, K kv heads, G = H / K query heads per kv head, D head width,
R = G * (queries of a tile) rows of scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

# Queries of a tile, and keys.
TILE = 128

# What the queries of one slice see of the keys of another: True, all; False, nothing; else a mask as in `attention`,
# broadcastable to (B, H, queries, keys): boolean, or added to the scores, -inf where a key is hidden.
Sight = Callable[[slice, slice], "Tensor | bool"]


def flash_attention(query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, sight: Sight) -> Tensor:
    """softmax(q k^T / sqrt(D) + sight) v: (B, H, T, D). Gradients reach queries, keys and values.

    What a sight adds to scores gets no gradient. A query that sees nothing gets zeros.
    """
    out: Tensor = _FlashAttention.apply(query_BHTD, key_BKSD, value_BKSD, sight)  # type: ignore[no-untyped-call]
    return out


def causal_sight(length: int, stored: int) -> Sight:
    """Queries are the last `length` of `stored` tokens; each sees itself and earlier keys."""
    earlier = stored - length

    def sight(queries: slice, keys: slice) -> Tensor | bool:
        if keys.start > earlier + queries.stop - 1:
            return False
        if keys.stop - 1 <= earlier + queries.start:
            return True
        rows, columns = queries.stop - queries.start, keys.stop - keys.start
        return torch.ones(rows, columns, dtype=torch.bool).tril(earlier + queries.start - keys.start)

    return sight


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, sight: Sight) -> Tensor:
        scaled_BHTD = query_BHTD / math.sqrt(query_BHTD.shape[-1])
        out_BHTD = torch.empty_like(scaled_BHTD)
        log_sum_BHT1 = out_BHTD.new_empty((*out_BHTD.shape[:-1], 1), dtype=exact(out_BHTD.dtype))
        for queries in _tiles(query_BHTD.shape[2]):
            tile_BHTD = scaled_BHTD[:, :, queries]
            out, highest_BHT1, total_BHT1 = nothing_yet(tile_BHTD)
            for keys in _tiles(key_BKSD.shape[2]):
                seen = sight(queries, keys)
                if seen is not False:
                    scores_BHTS = scores_of(tile_BHTD, key_BKSD[:, :, keys], seen)
                    add_tile(scores_BHTS, value_BKSD[:, :, keys], out, highest_BHT1, total_BHT1)
            saw = total_BHT1 > 0
            total_BHT1 = total_BHT1.where(saw, 1)
            out_BHTD[:, :, queries] = out / total_BHT1
            # Where nothing was seen, scores are -inf, and any finite number makes their exponentials 0.
            log_sum_BHT1[:, :, queries] = (highest_BHT1 + total_BHT1.log()).where(saw, 0)
        ctx.save_for_backward(query_BHTD, key_BKSD, value_BKSD, out_BHTD, log_sum_BHT1)
        ctx.sight = sight
        return out_BHTD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query_BHTD, key_BKSD, value_BKSD, out_BHTD, log_sum_BHT1 = ctx.saved_tensors
        (grad_BHTD,) = grads
        scale = 1 / math.sqrt(query_BHTD.shape[-1])
        # What softmax's gradient subtracts in each row (arXiv 2205.14135, appendix B.4): sum of p * dp = out . d out.
        drift_BHT1 = (grad_BHTD * out_BHTD).sum(-1, keepdim=True)
        dtype = exact(query_BHTD.dtype)
        grad_query_BHTD, grad_key_BKSD, grad_value_BKSD = (
            torch.zeros(x.shape, dtype=dtype, device=x.device) for x in (query_BHTD, key_BKSD, value_BKSD)
        )
        for keys in _tiles(key_BKSD.shape[2]):
            key, value = key_BKSD[:, :, keys], value_BKSD[:, :, keys]
            for queries in _tiles(query_BHTD.shape[2]):
                seen = ctx.sight(queries, keys)
                if seen is False:
                    continue
                query, grad = query_BHTD[:, :, queries] * scale, grad_BHTD[:, :, queries]
                probs_BHTS = scores_of(query, key, seen).sub_(log_sum_BHT1[:, :, queries]).exp_()
                query_BKRD, grad_BKRD, probs_BKRS = (_fold(x, key.shape[1]) for x in (query, grad, probs_BHTS))
                grad_value_BKSD[:, :, keys] += probs_BKRS.to(grad.dtype).transpose(-1, -2) @ grad_BKRD
                grad_probs_BKRS = grad_BKRD @ value.transpose(-1, -2)
                drift_BKR1 = _fold(drift_BHT1[:, :, queries], key.shape[1])
                grad_scores_BKRS = (grad_probs_BKRS - drift_BKR1).mul_(probs_BKRS).to(query.dtype)
                grad_key_BKSD[:, :, keys] += grad_scores_BKRS.transpose(-1, -2) @ query_BKRD
                grad_query_BHTD[:, :, queries] += (grad_scores_BKRS @ key).view(query.shape)
        grad_query_BHTD *= scale
        dtypes = (query_BHTD.dtype, key_BKSD.dtype, value_BKSD.dtype)
        made = (grad_query_BHTD, grad_key_BKSD, grad_value_BKSD)
        to_query, to_key, to_value = (grad.to(dtype) for grad, dtype in zip(made, dtypes, strict=True))
        return to_query, to_key, to_value, None


def nothing_yet(query_BHTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The running sums of a softmax before its first key: the output, the highest score (B, H, T, 1), their total."""
    out_BHTD = torch.zeros(query_BHTD.shape, dtype=exact(query_BHTD.dtype), device=query_BHTD.device)
    highest_BHT1 = out_BHTD.new_full((*out_BHTD.shape[:-1], 1), float("-inf"))
    return out_BHTD, highest_BHT1, torch.zeros_like(highest_BHT1)


def scores_of(scaled_BHTD: Tensor, key_BKSD: Tensor, seen: Tensor | bool) -> Tensor:
    """(B, H, T, S): scaled queries times keys, -inf where hidden; in float32 or, of float64, in that."""
    batch, heads, length, _ = scaled_BHTD.shape
    scores_BKRS = _fold(scaled_BHTD, key_BKSD.shape[1]) @ key_BKSD.transpose(-1, -2)
    scores_BHTS = scores_BKRS.to(exact(scores_BKRS.dtype)).view(batch, heads, length, -1)
    if not isinstance(seen, Tensor):
        return scores_BHTS
    seen = seen.to(scores_BHTS.device)
    return scores_BHTS.masked_fill_(~seen, float("-inf")) if seen.dtype == torch.bool else scores_BHTS.add_(seen)


def add_tile(
    scores_BHTS: Tensor, value_BKSD: Tensor, out_BHTD: Tensor, highest_BHT1: Tensor, total_BHT1: Tensor
) -> None:
    """One step of the online softmax (mutates all but the values): sums are relative to the highest score so far."""
    higher_BHT1 = torch.maximum(highest_BHT1, scores_BHTS.amax(dim=-1, keepdim=True))
    # Where nothing was seen so far, any finite number does: all terms are exp(-inf).
    base_BHT1 = higher_BHT1.masked_fill(higher_BHT1 == float("-inf"), 0)
    fading_BHT1 = (highest_BHT1 - base_BHT1).exp_()
    weights_BHTS = scores_BHTS.sub_(base_BHT1).exp_()
    total_BHT1.mul_(fading_BHT1).add_(weights_BHTS.sum(dim=-1, keepdim=True))
    weights_BKRS = _fold(weights_BHTS, value_BKSD.shape[1]).to(value_BKSD.dtype)
    out_BHTD.mul_(fading_BHT1).add_((weights_BKRS @ value_BKSD).view(out_BHTD.shape))
    highest_BHT1.copy_(higher_BHT1)


def exact(dtype: torch.dtype) -> torch.dtype:
    """What softmax and sums are computed in."""
    return torch.promote_types(dtype, torch.float32)


def _fold(x_BHTF: Tensor, kv_heads: int) -> Tensor:
    """(B, K, R, F): the heads of a group become rows of one matrix, so that no key is repeated."""
    return x_BHTF.reshape(len(x_BHTF), kv_heads, -1, x_BHTF.shape[-1])


def _tiles(length: int) -> Iterator[slice]:
    for first in range(0, length, TILE):
        yield slice(first, min(first + TILE, length))
