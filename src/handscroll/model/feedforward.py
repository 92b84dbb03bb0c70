"""The feed-forward slot: `forward(x_BTE, layout) -> (x_BTE, aux)`; each token alone. aux is None for dense variants."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (GLU Variants Improve Transformer, arXiv 2002.05202, equation 6)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, inner, bias = config.width, config.feedforward_width, config.feedforward_bias
        self.gate = nn.Linear(width, inner, bias=bias)
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, None]:
        return self.down(F.silu(self.gate(x_BTE)) * self.up(x_BTE)), None


FEEDFORWARDS = {"swiglu": SwiGLU}
