"""One layer of the network: attention and feed-forward, and where norms stand around them.

Letters: B batch, T tokens, Q tokens of a row whose hidden states are wanted, E model width, H heads, S keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from handscroll.model import deepnorm
from handscroll.model.attention import make_attention
from handscroll.model.config import ModelConfig
from handscroll.model.experts import make_feedforward
from handscroll.model.layout import Asking, Layout, pick
from handscroll.model.memory import LayerMemory
from handscroll.model.norm import make_norm


class Told(NamedTuple):
    """What a module told besides its output; `name` is the module's in the model."""

    name: str
    aux: object


class BlockOutput(NamedTuple):
    x_BTE: Tensor
    weights_BHTS: Tensor | None
    aux: tuple[Told, ...]


class Block(nn.Module):
    """Attention, then feed-forward, each added to the residual stream x. With f for either of them:

    | placement | x becomes | |
    |---|---|---|
    | pre | x + f(norm(x)) | arXiv 2002.04745 |
    | post | norm(x + f(x)) | arXiv 1706.03762 |
    | deepnorm | norm(alpha x + f(x)), alpha = (2 L)^(1/4) | arXiv 2203.00555 |
    | sandwich | x + norm'(f(norm(x))) | arXiv 2105.13290 |
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.placement = config.norm_placement
        self.alpha = deepnorm.alpha(config.num_layers) if self.placement == "deepnorm" else 1.0
        self.attention_norm = make_norm(config)
        self.attention = make_attention(config)
        self.feedforward_norm = make_norm(config)
        self.feedforward = make_feedforward(config, layer)
        if self.placement == "sandwich":
            self.attention_out_norm = make_norm(config)
            self.feedforward_out_norm = make_norm(config)
        self.dropout = config.residual_dropout

    def forward(self, x_BTE: Tensor, memory: LayerMemory, layout: Layout, asking: Asking | None = None) -> BlockOutput:
        """(B, T, E) in and out; with `asking` (B, Q, E) out: the other tokens give only their keys and values.

        Of some memories all tokens ask all the same: what these remember depends on it.
        """
        told: list[Told] = []
        read_BTE = self._before("attention_norm", x_BTE, layout, told)
        attended_BTE, weights_BHTS = self.attention(read_BTE, memory, layout, asking if memory.some_may_ask else None)
        if asking is not None:
            x_BTE, layout = pick(x_BTE, asking.places_BQ), asking.layout
            attended_BTE = attended_BTE if memory.some_may_ask else pick(attended_BTE, asking.places_BQ)
        x_BTE = self._join("attention", x_BTE, attended_BTE, layout, told)
        read_BTE = self._before("feedforward_norm", x_BTE, layout, told)
        fed_BTE = self._run("feedforward", read_BTE, layout, told)
        return BlockOutput(self._join("feedforward", x_BTE, fed_BTE, layout, told), weights_BHTS, tuple(told))

    def _before(self, norm: str, x_BTE: Tensor, layout: Layout, told: list[Told]) -> Tensor:
        """What attention or feed-forward reads of the residual stream."""
        return self._run(norm, x_BTE, layout, told) if self.placement in ("pre", "sandwich") else x_BTE

    def _join(self, part: str, x_BTE: Tensor, added_BTE: Tensor, layout: Layout, told: list[Told]) -> Tensor:
        """The residual stream with what attention or feed-forward adds."""
        if self.placement == "sandwich":
            added_BTE = self._run(f"{part}_out_norm", added_BTE, layout, told)
        if self.training:
            added_BTE = F.dropout(added_BTE, self.dropout)
        if self.placement in ("pre", "sandwich"):
            return x_BTE + added_BTE
        return self._run(f"{part}_norm", self.alpha * x_BTE + added_BTE, layout, told)

    def _run(self, name: str, x_BTE: Tensor, layout: Layout, told: list[Told]) -> Tensor:
        x_BTE, aux = getattr(self, name)(x_BTE, layout)
        if aux is not None:
            told.append(Told(name, aux))
        return x_BTE
