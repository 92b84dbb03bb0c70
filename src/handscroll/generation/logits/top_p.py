"""Top-p, nucleus sampling (arXiv 1904.09751): the fewest likeliest tokens that hold a probability of p together.

Sorting a whole vocabulary costs more than all else that is done to logits. The likeliest `CANDIDATES` nearly always
hold p, and then they alone are sorted.

Letters: B rows, C candidates, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES = 512


def top_p(logits_BV: Tensor, share: float) -> Tensor:
    """`share` above 0 and up to 1. Of equally likely tokens at the border, some may stay and others not."""
    if logits_BV.shape[-1] > CANDIDATES:
        ascending_BC = logits_BV.topk(CANDIDATES, dim=-1).values.flip(-1)
        mass_B1 = (ascending_BC - logits_BV.logsumexp(dim=-1, keepdim=True)).exp().sum(-1, keepdim=True)
        stays_BC = _stays(ascending_BC, mass_B1, share)
        least_B1 = ascending_BC.masked_fill(~stays_BC, float("inf")).amin(dim=-1, keepdim=True)
        # Not where the candidates don't hold p, nor where tokens of one likelihood are torn apart.
        is_told_B = (logits_BV >= least_B1).sum(-1) == stays_BC.sum(-1)
        if bool((is_told_B & (mass_B1[:, 0] >= share)).all()):
            return logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
    ascending_BV, order_BV = logits_BV.sort(dim=-1)
    stays_BV = _stays(ascending_BV, torch.ones_like(logits_BV[:, :1]), share)
    return logits_BV.masked_fill(~torch.zeros_like(stays_BV).scatter(1, order_BV, stays_BV), float("-inf"))


def _stays(ascending_BC: Tensor, mass_B1: Tensor, share: float) -> Tensor:
    """(B, C) which tokens stay. Together they have the probability `mass_B1`; those that are missing are less likely.

    One stays unless it and the less likely ones come to no more than 1 - share; the likeliest always does.
    """
    up_to_BC = ascending_BC.softmax(dim=-1).cumsum(dim=-1) * mass_B1 + (1 - mass_B1)
    stays_BC = up_to_BC > 1 - share
    stays_BC[:, -1] = True
    return stays_BC
