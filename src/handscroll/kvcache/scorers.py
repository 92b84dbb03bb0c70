"""How much each cached key matters: pure functions of the queries that have a say and of the keys.

A scorer gives one number for every key and kv head; the largest stay. `voters` says whose queries it needs: the "last"
ones of a prompt, "all" of it, or "none". Queries and keys come as they meet (`kept_layer.py`).

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

from handscroll.kvcache.kept_layer import Met

# Scores that exist at a time.
SCORES = 1 << 22

POOLINGS = ("max", "average")


class Scorer(Protocol):
    @property
    def voters(self) -> str: ...

    def scores(self, met: Met, earlier: int) -> Tensor:
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

    def scores(self, met: Met, earlier: int) -> Tensor:
        votes_KE = attention_received(met)[:, :earlier]
        if self.pooling == "max":
            return F.max_pool1d(votes_KE, self.kernel, stride=1, padding=self.kernel // 2)
        return F.avg_pool1d(votes_KE, self.kernel, stride=1, padding=self.kernel // 2)


@dataclass(frozen=True)
class Received:
    """The attention that a key has received from the whole prompt (H2O, arXiv 2306.14048)."""

    voters = "all"

    def scores(self, met: Met, earlier: int) -> Tensor:
        return attention_received(met)[:, :earlier]


@dataclass(frozen=True)
class KeyNorm:
    """Keys of small norm matter (arXiv 2406.11430): the head's mean norm over the key's own, which heads can share."""

    voters = "none"

    def scores(self, met: Met, earlier: int) -> Tensor:
        norm_KE = met.key_KSD[:, :earlier].float().norm(dim=-1)
        scores_KE: Tensor = norm_KE.mean(dim=-1, keepdim=True) / norm_KE.clamp(min=torch.finfo(torch.float32).tiny)
        return scores_KE


SCORERS: dict[str, Scorer] = {"observed": Observed(), "received": Received(), "key_norm": KeyNorm()}


def attention_received(met: Met) -> Tensor:
    """(K, S) float32: attention that each key gets, summed over queries, averaged over the heads of its group."""
    num_heads, length, width = met.query_HTD.shape
    num_kv_heads, stored, _ = met.key_KSD.shape
    received_KS = torch.zeros(num_kv_heads, stored, device=met.key_KSD.device)
    scaled_HTD = met.query_HTD / math.sqrt(width)
    step = max(1, SCORES // (num_heads * stored))
    for first in range(0, length, step):
        span = slice(first, first + step)
        part_KGTD = torch.unflatten(scaled_HTD[:, span], 0, (num_kv_heads, -1))
        scores_HTS = (part_KGTD @ met.key_KSD[:, None].transpose(-1, -2)).float().flatten(0, 1)
        mask_HTS = met.mask(span)[0]
        if mask_HTS.dtype == torch.bool:
            scores_HTS.masked_fill_(~mask_HTS, float("-inf"))
        else:
            scores_HTS += mask_HTS
        votes_HS = scores_HTS.softmax(dim=-1).sum(dim=1)
        received_KS += torch.unflatten(votes_HS, 0, (num_kv_heads, -1)).mean(dim=1)
    return received_KS
