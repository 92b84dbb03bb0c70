"""Top-k (arXiv 1805.04833, section 5.4): only the k likeliest tokens stay, and those as likely as the last of them.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor


def top_k(logits_BV: Tensor, count: int) -> Tensor:
    """`count` of at least 1; all stay where there are no more."""
    count = min(count, logits_BV.shape[-1])
    least_B1 = logits_BV.topk(count, dim=-1).values[:, -1:]
    return logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
