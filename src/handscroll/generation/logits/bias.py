"""Logit bias: a number is added to the logits of chosen tokens; minus infinity forbids one.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def bias(logits_BV: Tensor, added: Mapping[int, float]) -> Tensor:
    """`added`: token id to what its logit gets."""
    ids = torch.tensor(list(added), device=logits_BV.device)
    values = torch.tensor(list(added.values()), device=logits_BV.device, dtype=logits_BV.dtype)
    return logits_BV.index_add(1, ids, values.expand(len(logits_BV), -1))
