"""How an archived block is represented when queries look for it: a few keys per kv head, never rotated.

Keys arrive unrotated, so a representative says what a block is about and nothing of how far away it is.
`all` is exact and costs a block's length; the others cost `number` keys.

Letters: N blocks, K kv heads, L tokens of a block, R representatives, D head width.
"""

from __future__ import annotations

from collections.abc import Callable

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
    "all": every,
}
