"""The feed-forward slot: `forward(x_BTE, layout) -> (x_BTE, aux)`; each token alone. aux is what a norm within tells.

Two shapes (GLU Variants Improve Transformer, arXiv 2002.05202): gated ones have three matrices, plain ones two. What
differs beside the shape is the activation alone.

What `down` reads may be normalized (`ModelConfig.feedforward_norm`): models whose other norms are all BatchNorm are
prone to diverge, because nothing bounds what is between the two layers (Leveraging Batch Normalization for Vision
Transformers, ICCV 2021 workshops, https://openaccess.thecvf.com/ICCV2021_workshops/NeurArch).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.norm import Norm, make_norm

Activation = Callable[[Tensor], Tensor]

GATED: dict[str, Activation] = {"swiglu": F.silu, "geglu": F.gelu}
PLAIN: dict[str, Activation] = {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh")}


class GatedFeedForward(nn.Module):
    """down(f(gate(x)) * up(x)): SwiGLU and GeGLU (arXiv 2002.05202, equation 6)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, inner, bias = config.width, config.feedforward_width, config.feedforward_bias
        self.activation = GATED[config.feedforward]
        self.gate = nn.Linear(width, inner, bias=bias)
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)
        self.norm = _inner_norm(config)

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, object | None]:
        inner_BTF = self.activation(self.gate(x_BTE)) * self.up(x_BTE)
        inner_BTF, aux = (inner_BTF, None) if self.norm is None else self.norm(inner_BTF, layout)
        return self.down(inner_BTF), aux


class PlainFeedForward(nn.Module):
    """down(f(up(x))): ReLU (arXiv 1706.03762, equation 2), GELU with erf or its tanh estimate (arXiv 1606.08415)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, inner, bias = config.width, config.feedforward_width, config.feedforward_bias
        self.activation = PLAIN[config.feedforward]
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)
        self.norm = _inner_norm(config)

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, object | None]:
        inner_BTF = self.activation(self.up(x_BTE))
        inner_BTF, aux = (inner_BTF, None) if self.norm is None else self.norm(inner_BTF, layout)
        return self.down(inner_BTF), aux


def _inner_norm(config: ModelConfig) -> Norm | None:
    name = config.feedforward_norm
    return None if name is None else make_norm(config, config.feedforward_width, name)


FEEDFORWARDS: dict[str, type[nn.Module]] = {
    **dict.fromkeys(GATED, GatedFeedForward),
    **dict.fromkeys(PLAIN, PlainFeedForward),
}
