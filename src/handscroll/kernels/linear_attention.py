"""Linear attention (arXiv 2006.16236): a kernel in place of the softmax, so that the past is a state of constant size.

A weight is phi(q) . phi(k) over its sum (equation 4), phi(x) = elu(x) + 1 (equation 7). Keys and values of all earlier
tokens then come down to two sums, sum of phi(k) v^T and sum of phi(k) (equations 18 and 19). With rotary positions
(RoFormer, arXiv 2104.09864, equation 19) the numerator's phi(q) and phi(k) are turned and the denominator's are not,
lest it pass through zero: weights may be negative there, and need not sum to one.

Causal attention goes chunk by chunk: within a chunk all pairs at once, earlier chunks as the state. Both ways are held
against `linear_attention_with_weights`, which has all pairs.

Letters: B batch, T query tokens, S keys, H query heads, K kv heads, G = H / K, D head width, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

# Tokens of a chunk: pairs within it cost C each, the state D each.
CHUNK = 128

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Features(NamedTuple):
    """phi of queries (B, H, T, D) or keys (B, K, T, D): as they are, for the denominator, and turned."""

    plain: Tensor
    turned: Tensor


class LinearState(NamedTuple):
    """What is left of the keys and values so far: their products (B, K, D, D) and the sum of the keys (B, K, D)."""

    product_BKDD: Tensor
    sum_BKD: Tensor


def _in_float32(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Sums over a whole text stay in float32 where autocast would multiply in 16 bits."""

    @wraps(function)
    def inner(*given: Given.args, **named: Given.kwargs) -> Result:
        with torch.autocast("cuda" if torch.is_autocast_enabled("cuda") else "cpu", enabled=False):
            return function(*given, **named)

    return inner


def feature_map(x: Tensor) -> Tensor:
    """elu(x) + 1: positive, and with a gradient everywhere."""
    return F.elu(x) + 1


def empty_state(key_BKTD: Tensor) -> LinearState:
    batch, kv_heads, _, width = key_BKTD.shape
    zeros = torch.zeros(batch, kv_heads, width, width, dtype=torch.float32, device=key_BKTD.device)
    return LinearState(zeros, zeros[..., 0])


@_in_float32
def causal_linear_attention(
    query: Features, key: Features, value_BKTD: Tensor, state: LinearState, restarts_BC: Tensor | None = None
) -> tuple[Tensor, LinearState]:
    """Each token reads the state and the tokens up to itself: (B, H, T, D), and the state after the last one.

    Keys of padding are zeros. `restarts_BC` (B or 1, chunks): True where a chunk of CHUNK tokens begins a text of its
    own, which knows nothing of what came before.
    """
    kv_heads = value_BKTD.shape[1]
    outs = []
    # Split at once: the way back of a slice would be as long as the text, for each chunk.
    chunks = zip(*(torch.split(x, CHUNK, 2) for x in (*query, *key, value_BKTD)), strict=True)
    for number, parts in enumerate(chunks):
        if restarts_BC is not None:
            kept_B111 = (~restarts_BC[:, number]).float().view(-1, 1, 1, 1)
            state = LinearState(state.product_BKDD * kept_B111, state.sum_BKD * kept_B111[..., 0])
        plain_BKCD, turned_BKCD, value_BKCD = (x_BKCD.float() for x_BKCD in parts[2:])
        plain_BKGCD, turned_BKGCD = (torch.unflatten(x_BHCD.float(), 1, (kv_heads, -1)) for x_BHCD in parts[:2])
        scores_BKGCC = (turned_BKGCD @ turned_BKCD[:, :, None].transpose(-1, -2)).tril()
        above_BKGCD = turned_BKGCD @ state.product_BKDD[:, :, None] + scores_BKGCC @ value_BKCD[:, :, None]
        sums_BKCD = state.sum_BKD[:, :, None] + plain_BKCD.cumsum(2)
        below_BKGC1 = (plain_BKGCD * sums_BKCD[:, :, None]).sum(-1, keepdim=True)
        outs.append((above_BKGCD / _above_zero(below_BKGC1)).flatten(1, 2))
        state = LinearState(state.product_BKDD + turned_BKCD.transpose(-1, -2) @ value_BKCD, sums_BKCD[:, :, -1])
    return torch.cat(outs, dim=2).to(value_BKTD.dtype), state


@_in_float32
def linear_attention(query: Features, key: Features, value_BKSD: Tensor, text_BC: Tensor | None = None) -> Tensor:
    """Each token reads all keys, or with `text_BC` those of its own text: (B, H, T, D). Keys of padding are zeros.

    `text_BC` int64 (B, chunks): a number from 0 to chunks - 1 for each chunk of CHUNK tokens, equal in chunks of one
    text.
    """
    kv_heads = value_BKSD.shape[1]
    chunks = 1 if text_BC is None else text_BC.shape[1]
    plain_BKCXD, turned_BKCXD, value_BKCXD = (torch.unflatten(x.float(), 2, (chunks, -1)) for x in (*key, value_BKSD))
    product_BKCDD, sum_BKCD = turned_BKCXD.transpose(-1, -2) @ value_BKCXD, plain_BKCXD.sum(3)
    if text_BC is not None:
        product_BKCDD, sum_BKCD = (_of_texts(x, text_BC) for x in (product_BKCDD, sum_BKCD))
    plain_BKGCXD, turned_BKGCXD = (
        torch.unflatten(torch.unflatten(x_BHTD.float(), 1, (kv_heads, -1)), 3, (chunks, -1)) for x_BHTD in query
    )
    below_BKGCX1 = plain_BKGCXD @ sum_BKCD[:, :, None, ..., None]
    out_BKGCXD = turned_BKGCXD @ product_BKCDD[:, :, None] / _above_zero(below_BKGCX1)
    return out_BKGCXD.flatten(3, 4).flatten(1, 2).to(value_BKSD.dtype)


def _of_texts(x_BKC: Tensor, text_BC: Tensor) -> Tensor:
    """(B, K, C, ...): in each chunk the sum over all chunks of its text."""
    index_BKC = text_BC.view(len(text_BC), 1, -1, *(1 for _ in x_BKC.shape[3:])).expand_as(x_BKC)
    return torch.zeros_like(x_BKC).scatter_add(2, index_BKC, x_BKC).gather(2, index_BKC)


def linear_attention_with_weights(
    query: Features, key: Features, value_BKSD: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The slow reference of both: the same output, and the weights (B, H, T, S) that produced it.

    `mask`, boolean and broadcastable to these: True where a key is visible; None: everywhere.
    """
    group = query.plain.shape[1] // value_BKSD.shape[1]
    plain_BHSD, turned_BHSD, value_BHSD = (x.repeat_interleave(group, dim=1) for x in (*key, value_BKSD))
    above_BHTS = query.turned @ turned_BHSD.transpose(-1, -2)
    below_BHTS = query.plain @ plain_BHSD.transpose(-1, -2)
    if mask is not None:
        above_BHTS, below_BHTS = above_BHTS * mask, below_BHTS * mask
    weights_BHTS = above_BHTS / _above_zero(below_BHTS.sum(-1, keepdim=True))
    return weights_BHTS @ value_BHSD, weights_BHTS


def _above_zero(sums: Tensor) -> Tensor:
    """Padding may see nothing: 0 / 0 would spread NaN."""
    return sums.clamp(min=torch.finfo(torch.float32).tiny)
