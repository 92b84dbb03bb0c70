"""LayerNorm as widely copied tutorial code has it: the sample's standard deviation, and eps outside the root.

Two differences to `layer.py`, and none that its name tells. The standard deviation divides by E - 1, so that every
output is smaller by sqrt((E - 1) / E): 0.4 % at E = 128, which the weight learns to make up for. And eps is added to
the deviation instead of the variance: a token that hardly varies is divided by eps, not by sqrt(eps), so that its
gradient is up to 1 / sqrt(eps) times as large, 1000 times at eps = 1e-6. A model trained with one is off with the
other. For checkpoints and lessons that have it; a new model wants `layer` or `rms`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from handscroll.model.layout import Layout
from handscroll.model.norm.norm import Norm


class TutorialLayerNorm(Norm):
    """(x - mean) / (deviation + eps) * weight + bias; the deviation's square divides by E - 1."""

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, None]:
        assert self.bias is not None
        x = x_BTE.to(torch.promote_types(x_BTE.dtype, torch.float32))
        normed_BTE = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + self.eps)
        return (normed_BTE * self.weight + self.bias).to(x_BTE.dtype), None
