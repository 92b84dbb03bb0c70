"""LayerNorm (arXiv 1607.06450): each token by its own mean and variance."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from handscroll.model.layout import Layout
from handscroll.model.norm.norm import Norm


class LayerNorm(Norm):
    """(x - mean) / sqrt(variance + eps) * weight + bias (equation 4); the variance divides by E."""

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, None]:
        weight = self.weight.to(x_BTE.dtype)
        bias = None if self.bias is None else self.bias.to(x_BTE.dtype)
        return F.layer_norm(x_BTE, self.weight.shape, weight, bias, self.eps), None


class LayerNormWithoutBias(LayerNorm):
    """LayerNorm whose output has the weight's size in every feature, but no offset of its own (MPT)."""

    has_bias = False
