"""Repetition penalty (CTRL, arXiv 1909.05858, section 4.1): tokens of the text so far become less likely.

How often a token occurred makes no difference; `occurrences.py` counts.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def repetition(logits_BV: Tensor, is_seen_BV: Tensor, penalty: float) -> Tensor:
    """Divides a seen token's logit by `penalty`, or multiplies it where it is negative: above 1 both lower it."""
    lowered_BV = torch.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)
    return torch.where(is_seen_BV, lowered_BV, logits_BV)
