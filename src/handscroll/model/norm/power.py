"""PowerNorm (arXiv 2003.07845): BatchNorm without the mean, by running statistics in training, too.

The letters are those of the paper's algorithm of PN: psi^2 is the running quadratic mean of every feature, nu the
running mean of what its exact gradient would subtract; alpha = 1 - momentum. Step t divides by psi of step t - 1, and
its backward pass subtracts nu of step t - 1, so that no token of the batch has a part in another's output: the norm is
causal. While it warms up a batch is divided by its own quadratic mean, with its exact gradient (PN-V in the paper),
for there is no running one yet. The authors' code also divides each token by its own quadratic mean before all this;
the algorithm doesn't, and neither is it done here.

nu is in the unit of what is differentiated: of a step's mean loss in one micro batch, of a sum in several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from handscroll.model.layout import Layout
from handscroll.model.norm.running import DEFAULT, RunningNorm, count_of, real_tokens, sum_over
from handscroll.model.slots import NormStatistics


class PowerStatistics(NamedTuple):
    """Sums over a batch's real tokens: x^2, normed^2, and normed times its gradient.

    The last one is 0 until the backward pass of that forward, which adds to it.
    """

    tokens: Tensor
    squares_E: Tensor
    normed_E: Tensor
    gradient_E: Tensor


class PowerNorm(RunningNorm):
    """x / sqrt(psi^2 + eps) * weight + bias."""

    quadratic_mean: Tensor
    gradient_mean: Tensor

    def __init__(self, width: int, eps: float, statistics: NormStatistics = DEFAULT):
        super().__init__(width, eps, statistics)
        self.register_buffer("quadratic_mean", torch.ones(width))
        self.register_buffer("gradient_mean", torch.zeros(width))

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, PowerStatistics | None]:
        assert self.bias is not None
        x = x_BTE.float()
        if not self.training:
            scale_E = self.weight * (self.quadratic_mean + self.eps).rsqrt()
            return (x * scale_E + self.bias).to(x_BTE.dtype), None
        real_BT1 = real_tokens(layout)
        tokens = count_of(x, real_BT1)
        squares_E = sum_over(x.detach().square(), real_BT1)
        is_own = self.in_warmup()
        scale_E = ((squares_E / tokens if is_own else self.quadratic_mean) + self.eps).rsqrt()
        told = PowerStatistics(tokens, squares_E, squares_E * scale_E.square(), torch.zeros_like(squares_E))
        nu_E = None if is_own else self.gradient_mean
        normed_BTE = _Divide.apply(x, scale_E, nu_E, real_BT1, told)  # type: ignore[no-untyped-call]
        return (normed_BTE * self.weight + self.bias).to(x_BTE.dtype), told

    @torch.no_grad()
    def forget(self) -> None:
        self.steps.zero_()
        self.quadratic_mean.fill_(1.0)
        self.gradient_mean.zero_()

    @torch.no_grad()
    def update(self, told: Sequence[PowerStatistics]) -> None:
        """psi^2 += (1 - alpha) (psi_B^2 - psi^2); nu = nu (1 - (1 - alpha) Gamma) + (1 - alpha) Lambda."""
        tokens, squares_E, normed_E, gradient_E = (sum(parts) for parts in zip(*told, strict=True))
        momentum, rate = self.statistics.momentum, self.rate()
        self.quadratic_mean.lerp_((squares_E / tokens).to(self.quadratic_mean), rate)
        gamma_E, lambda_E = ((total_E / tokens).to(self.gradient_mean) for total_E in (normed_E, gradient_E))
        self.gradient_mean.mul_(1 - momentum * gamma_E).add_(momentum * lambda_E)
        self.steps += 1


class _Divide(torch.autograd.Function):
    """normed = x * scale, whose gradient is scale * (g - nu * normed) at real tokens, and scale * g at padding.

    Without nu it is this batch's own mean of g * normed: then the gradient is that of a division by the batch's own
    quadratic mean.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BTE: Tensor, scale_E: Tensor, nu_E: Tensor | None, real_BT1: Tensor | None, told: PowerStatistics
    ) -> Tensor:
        normed_BTE = x_BTE * scale_E
        ctx.save_for_backward(normed_BTE, scale_E, nu_E, real_BT1)
        ctx.told = told
        return normed_BTE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BTE: Tensor) -> tuple[Tensor, None, None, None, None]:
        normed_BTE, scale_E, nu_E, real_BT1 = ctx.saved_tensors
        product_E = sum_over(gradient_BTE * normed_BTE, real_BT1)
        ctx.told.gradient_E.add_(product_E)
        taken_BTE = (product_E / ctx.told.tokens if nu_E is None else nu_E) * normed_BTE
        if real_BT1 is not None:
            taken_BTE = taken_BTE.masked_fill(~real_BT1, 0)
        return scale_E * (gradient_BTE - taken_BTE), None, None, None, None
