"""Norms whose statistics are a batch's: what they share, and why a forward leaves them as they are.

In training mode such a norm returns the batch's statistics as aux and changes nothing: a forward may be recomputed, and
a step may have many. Whoever trains calls `update` once a step with all that was told (`training/statistics.py`).
Running statistics are buffers, so that checkpoints and model folders hold them; in evaluation nothing is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handscroll.model.layout import Layout
from handscroll.model.norm.norm import Norm
from handscroll.model.slots import NormStatistics

DEFAULT = NormStatistics()


class RunningNorm(Norm):
    """A norm with running statistics. `steps` counts updates, as a float like all else that a weights file holds."""

    steps: Tensor

    def __init__(self, width: int, eps: float, statistics: NormStatistics = DEFAULT):
        super().__init__(width, eps)
        self.statistics = statistics
        self.register_buffer("steps", torch.zeros(1))

    def forget(self) -> None:
        """Running statistics as of a new model (mutates)."""
        raise NotImplementedError

    def update(self, told: Sequence[Any]) -> None:
        """Takes in what all forwards of one step told of their batches, in order (mutates)."""
        raise NotImplementedError

    def in_warmup(self) -> bool:
        return bool(self.steps < self.statistics.warmup)

    def rate(self) -> float:
        """The share of a step in running statistics: while warming up at least that of a mean over all steps."""
        share = 1 / (float(self.steps) + 1) if self.in_warmup() else 0.0
        return max(share, self.statistics.momentum)


def real_tokens(layout: Layout) -> Tensor | None:
    """(B, T, 1): what isn't padding; None where nothing is."""
    return None if layout.is_uniform else (layout.index_BT >= 0)[..., None]


def sum_over(x_BTE: Tensor, real_BT1: Tensor | None) -> Tensor:
    """(E,): over real tokens."""
    return (x_BTE if real_BT1 is None else x_BTE.masked_fill(~real_BT1, 0)).sum((0, 1))


def count_of(x_BTE: Tensor, real_BT1: Tensor | None) -> Tensor:
    """Real tokens, as a float of one dimension."""
    count = x_BTE.new_full((1,), x_BTE.shape[0] * x_BTE.shape[1])
    return count if real_BT1 is None else real_BT1.sum().to(x_BTE.dtype).reshape(1)
