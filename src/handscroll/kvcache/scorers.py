"""How much each cached key matters: pure functions of the queries that have a say and of the keys.

A scorer gives one number for every key and kv head; the largest stay. `voters` says whose queries it needs: the "last"
ones of a prompt, "all" of it, or "none". Queries and keys are turned as they were when they met; of T queries the last
one stands in the last slot.

To add one: write a class below and one line in `SCORERS`.

Letters: T queries, S slots, E of them earlier ones, H heads, K kv heads, G = H / K, D head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# Scores that exist at a time.
SCORES = 1 << 22

POOLINGS = ("max", "average")


class Scorer(Protocol):
    @property
    def voters(self) -> str: ...

    def scores(self, query_HTD: Tensor, key_KSD: Tensor, earlier: int) -> Tensor:
        """(K, E) float32: of the first `earlier` slots."""


@dataclass(frozen=True)
class Observed:
    """What the last queries attend to, pooled along the text, so that what stands around it stays, too.

    SnapKV, arXiv 2404.14469. `kernel`: slots that are pooled, an odd number.
    """

    pooling: str = "max"
    kernel: int = 7

    voters = "last"

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r}: known are {', '.join(POOLINGS)}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: an odd number of tokens, 1 (no pooling) or more")

    def scores(self, query_HTD: Tensor, key_KSD: Tensor, earlier: int) -> Tensor:
        votes_KE = attention_received(query_HTD, key_KSD)[:, :earlier]
        if self.pooling == "max":
            return F.max_pool1d(votes_KE, self.kernel, stride=1, padding=self.kernel // 2)
        return F.avg_pool1d(votes_KE, self.kernel, stride=1, padding=self.kernel // 2)


@dataclass(frozen=True)
class Received:
    """The attention that a key has received from the whole prompt (H2O, arXiv 2306.14048)."""

    voters = "all"

    def scores(self, query_HTD: Tensor, key_KSD: Tensor, earlier: int) -> Tensor:
        return attention_received(query_HTD, key_KSD)[:, :earlier]


@dataclass(frozen=True)
class KeyNorm:
    """Keys of small norm matter (arXiv 2406.11430): the head's mean norm over the key's own, which heads can share."""

    voters = "none"

    def scores(self, query_HTD: Tensor, key_KSD: Tensor, earlier: int) -> Tensor:
        norm_KE = key_KSD[:, :earlier].float().norm(dim=-1)
        scores_KE: Tensor = norm_KE.mean(dim=-1, keepdim=True) / norm_KE.clamp(min=torch.finfo(torch.float32).tiny)
        return scores_KE


SCORERS: dict[str, Scorer] = {"observed": Observed(), "received": Received(), "key_norm": KeyNorm()}


def attention_received(query_HTD: Tensor, key_KSD: Tensor, bias_HTS: Tensor | None = None) -> Tensor:
    """(K, S) float32: attention that each key gets from T queries, which stand in the last T slots.

    Summed over queries, averaged over the heads of a kv head's group. `bias_HTS` is added to scores.
    """
    num_heads, length, width = query_HTD.shape
    num_kv_heads, stored, _ = key_KSD.shape
    received_KS = torch.zeros(num_kv_heads, stored, device=key_KSD.device)
    slots_S = torch.arange(stored, device=key_KSD.device)
    scaled_KGTD = (query_HTD / math.sqrt(width)).view(num_kv_heads, -1, length, width)
    step = max(1, SCORES // (num_heads * stored))
    for first in range(0, length, step):
        part_KGTD = scaled_KGTD[:, :, first : first + step]
        own_T1 = slots_S[stored - length + first :][: part_KGTD.shape[2], None]
        scores_KGTS = (part_KGTD @ key_KSD[:, None].transpose(-1, -2)).float()
        if bias_HTS is not None:
            scores_KGTS += bias_HTS[:, first : first + step].view(scores_KGTS.shape)
        weights_KGTS = scores_KGTS.masked_fill_(slots_S > own_T1, float("-inf")).softmax(dim=-1)
        received_KS += weights_KGTS.sum(dim=2).mean(dim=1)
    return received_KS
