"""RMSNorm (arXiv 1910.07467): LayerNorm without mean and bias."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from handscroll.model.layout import Layout
from handscroll.model.norm.norm import Norm


class RMSNorm(Norm):
    """x / sqrt(mean(x^2) + eps) * weight (equation 4)."""

    has_bias = False

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, None]:
        # Heads are normalized in 16 bits under autocast, whose weights stay in 32.
        weight = self.weight.to(x_BTE.dtype)
        return F.rms_norm(x_BTE, weight.shape, weight, self.eps), None
