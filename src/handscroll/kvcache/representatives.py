"""How an archived block is represented when queries look for it: a few vectors per kv head, made of unrotated keys.

Keys arrive unrotated, so a representative says what a block is about and nothing of how far away it is.
`all` is exact and costs a block's length, `bounds` cost two keys, `mean` costs one; the others cost `number` keys.

Letters: N blocks, K kv heads, L tokens of a block, R representatives, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def key_norm(key_NKLD: Tensor, received_NKL: Tensor | None, number: int) -> Tensor:
    """The `number` keys of largest norm: what can score high, scores high."""
    return _pick(key_NKLD, key_NKLD.norm(dim=-1), number)


def key_contrast(key_NKLD: Tensor, received_NKL: Tensor | None, number: int) -> Tensor:
    """The `number` keys farthest from the block's mean: norms without what all of a head's keys have in common."""
    return _pick(key_NKLD, (key_NKLD - key_NKLD.mean(dim=2, keepdim=True)).norm(dim=-1), number)


def attended(key_NKLD: Tensor, received_NKL: Tensor | None, number: int) -> Tensor:
    """The `number` keys that received most attention in the local window (InfLLM, arXiv 2402.04617, section 3.2)."""
    assert received_NKL is not None, "attended representatives need the attention that each key received"
    return _pick(key_NKLD, received_NKL, number)


def mean(key_NKLD: Tensor, received_NKL: Tensor | None, number: int) -> Tensor:
    """One key: the block's mean."""
    return key_NKLD.mean(dim=2, keepdim=True)


def bounds(key_NKLD: Tensor, received_NKL: Tensor | None, number: int) -> Tensor:
    """(N, K, 1, 2D): the largest and the smallest value of each feature (Quest, arXiv 2406.10774, algorithm 1).

    With a query `by_sign`, its product is an upper bound of the query's product with any of the block's keys.
    """
    return torch.cat((key_NKLD.amax(dim=2, keepdim=True), key_NKLD.amin(dim=2, keepdim=True)), dim=-1)


def by_sign(query_BHTD: Tensor) -> Tensor:
    """(B, H, T, 2D): what is positive in a query meets the largest values, what is negative the smallest.

    sum_d max(q_d * max_d, q_d * min_d) is then one product. Whoever divides products by the root of a vector's width
    would divide by sqrt(2) too much, for the width has doubled: it is multiplied in here.
    """
    return math.sqrt(2) * torch.cat((query_BHTD.clamp(min=0), query_BHTD.clamp(max=0)), dim=-1)


def every(key_NKLD: Tensor, received_NKL: Tensor | None, number: int) -> Tensor:
    """All keys of the block: the exact and slow yardstick of the others."""
    return key_NKLD


def _pick(key_NKLD: Tensor, score_NKL: Tensor, number: int) -> Tensor:
    index_NKR = score_NKL.topk(min(number, key_NKLD.shape[2]), dim=-1).indices
    return key_NKLD.gather(2, index_NKR[..., None].expand(-1, -1, -1, key_NKLD.shape[-1]))


REPRESENTATIVES: dict[str, Callable[[Tensor, Tensor | None, int], Tensor]] = {
    "key_norm": key_norm,
    "key_contrast": key_contrast,
    "attended": attended,
    "mean": mean,
    "bounds": bounds,
    "all": every,
}

# What is made of a query before it meets representatives of these kinds; those of others it meets as it is.
QUERIES: dict[str, Callable[[Tensor], Tensor]] = {"bounds": by_sign}
