"""BatchNorm (arXiv 1502.03167) over real tokens: every feature by its mean and variance in the batch.

Padding never counts. In training a token's statistics include tokens that come after it, those of its own row and of
others: a decoder with it is causal only in evaluation, where the running statistics stand in for the batch's. That leak
and statistics that jump from batch to batch are why language models have LayerNorm instead; vision-style training uses
it together with a norm inside the feed-forward (`ModelConfig.feedforward_norm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.model.layout import Layout
from handscroll.model.norm.running import DEFAULT, RunningNorm, count_of, real_tokens, sum_over
from handscroll.model.slots import NormStatistics


class BatchStatistics(NamedTuple):
    """Of a batch's real tokens: how many, each feature's mean, and its sum of squared deviations from that."""

    tokens: Tensor
    mean_E: Tensor
    squares_E: Tensor

    def join(self, other: BatchStatistics) -> BatchStatistics:
        """Those of both batches together (Chan, Golub and LeVeque, 1979)."""
        tokens = self.tokens + other.tokens
        shift_E = other.mean_E - self.mean_E
        mean_E = self.mean_E + shift_E * (other.tokens / tokens)
        squares_E = self.squares_E + other.squares_E + shift_E.square() * (self.tokens * other.tokens / tokens)
        return BatchStatistics(tokens, mean_E, squares_E)


class BatchNorm(RunningNorm):
    """(x - mean) / sqrt(variance + eps) * weight + bias: of the batch in training, else the running ones.

    The running variance takes in batches' variance divided by their tokens less one, as torch's does. Over the micro
    batches of a step each is normalized by its own statistics, and the running ones take in those of all together.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, eps: float, statistics: NormStatistics = DEFAULT):
        super().__init__(width, eps, statistics)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, BatchStatistics | None]:
        assert self.bias is not None
        x = x_BTE.float()
        if not self.training:
            scale_E = self.weight * (self.variance + self.eps).rsqrt()
            return ((x - self.mean) * scale_E + self.bias).to(x_BTE.dtype), None
        real_BT1 = real_tokens(layout)
        tokens = count_of(x, real_BT1)
        mean_E = sum_over(x, real_BT1) / tokens
        centred_BTE = x - mean_E
        squares_E = sum_over(centred_BTE.square(), real_BT1)
        scale_E = self.weight * (squares_E / tokens + self.eps).rsqrt()
        told = BatchStatistics(tokens, mean_E.detach(), squares_E.detach())
        return (centred_BTE * scale_E + self.bias).to(x_BTE.dtype), told

    @torch.no_grad()
    def forget(self) -> None:
        self.steps.zero_()
        self.mean.zero_()
        self.variance.fill_(1.0)

    @torch.no_grad()
    def update(self, told: Sequence[BatchStatistics]) -> None:
        whole, rate = told[0], self.rate()
        for each in told[1:]:
            whole = whole.join(each)
        self.mean.lerp_(whole.mean_E.to(self.mean), rate)
        self.variance.lerp_((whole.squares_E / (whole.tokens - 1).clamp(min=1)).to(self.variance), rate)
        self.steps += 1
