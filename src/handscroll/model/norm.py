"""The norm slot: `forward(x_BTE, layout) -> (x_BTE, aux)`. aux is what a trainer must know besides; None here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handscroll.model.layout import Layout


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (arXiv 1910.07467, equation 4): LayerNorm without mean and bias."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, None]:
        # Heads are normalized in 16 bits under autocast, whose weights stay in 32.
        return F.rms_norm(x_BTE, self.weight.shape, self.weight.to(x_BTE.dtype), self.eps), None


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias (arXiv 1607.06450, equation 4); the variance divides by E."""

    has_bias = True

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if self.has_bias else None
        self.eps = eps

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, None]:
        weight = self.weight.to(x_BTE.dtype)
        bias = None if self.bias is None else self.bias.to(x_BTE.dtype)
        return F.layer_norm(x_BTE, self.weight.shape, weight, bias, self.eps), None


class LayerNormWithoutBias(LayerNorm):
    """LayerNorm whose output has the weight's size in every feature, but no offset of its own (MPT)."""

    has_bias = False


NORMS = {"rms": RMSNorm, "layer": LayerNorm, "layer_no_bias": LayerNormWithoutBias}
