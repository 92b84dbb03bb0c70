"""Locally typical sampling (arXiv 2202.00666): tokens whose surprise is nearest to the one to be expected stay.

The expected surprise is the entropy of the distribution; tokens are taken by their distance from it until they hold a
probability of p together. The likeliest token may be too expected to stay. As in `top_p.py`, a few candidates are
sorted where they suffice.

Letters: B rows, C candidates, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

CANDIDATES = 512


def typical(logits_BV: Tensor, share: float) -> Tensor:
    """`share` above 0 and up to 1. Tokens at the same distance as the last that is taken stay, too."""
    logprobs_BV = logits_BV.log_softmax(dim=-1)
    # A token that was left out before has probability 0, and adds nothing.
    entropy_B1 = -(logprobs_BV * logprobs_BV.exp()).nansum(dim=-1, keepdim=True)
    distance_BV = (-logprobs_BV - entropy_B1).abs()
    count = distance_BV.shape[-1]
    if count > CANDIDATES:
        nearest_BC, order_BC = distance_BV.topk(CANDIDATES, dim=-1, largest=False)
        mass_BC = logprobs_BV.gather(1, order_BC).exp().cumsum(dim=-1)
        if bool((mass_BC[:, -1] >= share).all()):
            return _up_to(logits_BV, distance_BV, nearest_BC, mass_BC, share)
    sorted_BV, order_BV = distance_BV.sort(dim=-1, stable=True)
    mass_BV = logits_BV.gather(1, order_BV).softmax(dim=-1).cumsum(dim=-1)
    return _up_to(logits_BV, distance_BV, sorted_BV, mass_BV, share)


def _up_to(logits_BV: Tensor, distance_BV: Tensor, sorted_BC: Tensor, mass_BC: Tensor, share: float) -> Tensor:
    """Leaves out what is farther than the first token with which the nearest ones hold `share`."""
    last_B1 = (mass_BC < share).sum(dim=-1, keepdim=True).clamp(max=sorted_BC.shape[-1] - 1)
    return logits_BV.masked_fill(distance_BV > sorted_BC.gather(1, last_B1), float("-inf"))
