"""Transformer-XL's relative positions (arXiv 1901.02860, section 3.3): a score looks at content, and at distance.

The score of query i and key j, before it is divided by sqrt(D), is the sum of the paper's terms (a) to (d):

    (q_i + u) . k_j  +  (q_i + v) . W_kR R_(i - j)

R is the sinusoid of a distance, as wide as the model; W_kR brings it to the heads, in each layer by a matrix of its
own; u and v, one vector per head for all layers, say what each head asks for whatever the query is. What a distance
means can so depend on what stands at the query, where rotary positions and ALiBi decay alike for all.

(q_i + v) . W_kR R is a product with all distances there are, from which each pair of tokens takes its own (the paper's
appendix B): no vector of a pair is ever made.

Letters: B batch, T queries, S keys, N distances, H heads, D head width, E model width; ... a batch or nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from handscroll.model.config import ModelConfig
from handscroll.model.position.absolute import Absolute
from handscroll.model.position.rotary import frequencies
from handscroll.model.slots import PositionOptions

# What distances are divided by in the last pair of features.
SLOWEST = 10000.0


@dataclass(frozen=True, kw_only=True)
class RelativeOptions(PositionOptions):
    """Transformer-XL has nothing to choose: sizes follow from the model."""

    asks_query: ClassVar[bool] = True


class Relative(Absolute, nn.Module):
    """The weights of all layers. By itself it turns and weighs nothing: a memory asks for its `layer`."""

    def __init__(self, config: ModelConfig):
        nn.Module.__init__(self)
        if config.width % 2:
            raise ValueError(f"width={config.width} is odd: relative positions have sines and cosines in pairs")
        shape = config.num_heads, config.head_width
        self.u, self.v = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
        own = 1 if config.shared_layers else config.num_layers
        self.r = nn.ModuleList(nn.Linear(config.width, math.prod(shape), bias=False) for _ in range(own))
        self.frequencies = frequencies(config.width, SLOWEST)
        self.sees_ahead = config.mask != "causal"

    def layer(self, number: int) -> RelativeLayer:
        return RelativeLayer(self, number % len(self.r))


class RelativeLayer(Absolute):
    """The position of one layer; it knows no weights of its own, so that the model's are saved once."""

    def __init__(self, whole: Relative, place: int, heads: slice = slice(None)):
        self.whole, self.place, self.heads = whole, place, heads

    def of_heads(self, heads: slice) -> RelativeLayer:
        """That of some of the heads."""
        return RelativeLayer(self.whole, self.place, heads)

    def asked(self, query_BHTD: Tensor) -> Tensor:
        """q + u: what is compared with keys."""
        return query_BHTD + self.whole.u[self.heads].to(query_BHTD.dtype)[:, None]

    def said(self, query_BHTD: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """(B, H, T, S): what distances add to scores, which are divided by sqrt(D) already.

        Positions are (T,) or (B, T), and (S,) or (B, S), or (B, K, S) where kv heads hold different keys.
        """
        whole = self.whole
        if key_positions.dim() == 3:
            key_positions = key_positions.repeat_interleave(query_BHTD.shape[1] // key_positions.shape[1], 1)
            query_positions = query_positions[..., None, :]
        distance = query_positions[..., :, None] - key_positions[..., None, :]
        if not whole.sees_ahead:
            # A key behind its query is hidden; what its distance would say is no matter.
            distance = distance.clamp(min=0)
        lowest, highest = map(int, distance.aminmax())
        if highest - lowest < 2 * sum(distance.shape[-2:]):
            distance_N, place = torch.arange(lowest, highest + 1, device=distance.device), distance - lowest
        else:
            distance_N, place = torch.unique(distance, return_inverse=True)
        from_BHTD = query_BHTD + whole.v[self.heads].to(query_BHTD.dtype)[:, None]
        said_BHTN = from_BHTD @ self._keys(distance_N, query_BHTD.dtype) / math.sqrt(query_BHTD.shape[-1])
        place_BHTS = (place[:, None] if place.dim() == 3 else place).expand(*said_BHTN.shape[:2], -1, -1)
        return said_BHTN.gather(-1, place_BHTS)

    def _keys(self, distance_N: Tensor, dtype: torch.dtype) -> Tensor:
        """(H, D, N): W_kR R of some distances, sines before cosines; angles in float64."""
        angles = distance_N.to(torch.float64)[:, None] * self.whole.frequencies.to(distance_N.device)
        sinusoid_NE = torch.cat((angles.sin(), angles.cos()), dim=-1)
        keys_NF: Tensor = self.whole.r[self.place](sinusoid_NE.to(self.whole.u.dtype))
        return keys_NF.to(dtype).view(-1, *self.whole.u.shape).permute(1, 2, 0)[self.heads]
