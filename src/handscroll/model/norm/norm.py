"""What all norms have: one number per feature that scales, and for most one that shifts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from handscroll.model.layout import Layout


class Norm(nn.Module):
    """`forward(x_BTE, layout) -> (x_BTE, aux)`; aux is what a trainer must know besides, or None."""

    has_bias = True
    bias: nn.Parameter | None

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.register_parameter("bias", nn.Parameter(torch.empty(width)) if self.has_bias else None)
        self.eps = eps

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, object | None]:
        raise NotImplementedError
