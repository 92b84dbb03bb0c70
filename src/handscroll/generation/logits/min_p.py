"""Min-p (arXiv 2407.01082): a token must be at least so likely, as a share of the likeliest one's probability.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor


def min_p(logits_BV: Tensor, share: float) -> Tensor:
    """`share` from 0 (all stay) to 1 (the likeliest alone, and those as likely)."""
    probabilities_BV = logits_BV.softmax(dim=-1)
    least_B1 = share * probabilities_BV.amax(dim=-1, keepdim=True)
    return logits_BV.masked_fill(probabilities_BV < least_B1, float("-inf"))
