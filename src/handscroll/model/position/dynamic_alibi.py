"""Dynamic ALiBi: past the trained window the mask of a longer text is interpolated, head by head.

Adds to `alibi`: within the trained window nothing changes at all; past it each head keeps as much of its resolution as
its reach allows. Baichuan2-192K is said to have been stretched so; no formula was published, this one is our own.

A head of slope m tells distances apart that differ by about 1/m tokens, and the heads' 1/m are a geometric sequence
from the finest to the coarsest. In a text `times` longer than the trained window

    m_h -> m_h * times^(-r_h),    r_h = log(m_first / m_h) / log(m_first / m_last)

so that they are such a sequence again: the steepest head (r = 0) sees neighbours as it did, the shallowest (r = 1)
gives the farthest token what it gave the farthest one of the window, which is position interpolation (arXiv 2306.15595)
of its mask, and those between lie between, as pairs of features do with NTK-aware RoPE. For a power of two of heads r_h
is h / (H - 1). `times` is the quotient of the largest distances, (length - 1) / (window - 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from handscroll.model.position.alibi import Alibi, AlibiOptions


@dataclass(frozen=True, kw_only=True)
class DynamicAlibiOptions(AlibiOptions):
    """Nothing to choose either: the trained window is the model's, and a text says how long it is."""


class DynamicAlibi(Alibi):
    depends_on_length = True

    def __init__(self, num_heads: int, options: DynamicAlibiOptions, max_positions: int):
        super().__init__(num_heads, options, max_positions)
        self.farthest = max(1, max_positions - 1)
        steepness_H = self.slopes_H.double().log()
        span = steepness_H.max() - steepness_H.min()
        # A single head has to reach as far as the text does.
        self.reach_H = (steepness_H.max() - steepness_H) / span if span else torch.ones_like(steepness_H)

    def of_heads(self, heads: slice) -> Self:
        part = super().of_heads(heads)
        part.reach_H = self.reach_H[heads]
        return part

    def slopes_at(self, lengths: Tensor | None, device: torch.device) -> Tensor:
        if lengths is None or int(lengths.max()) - 1 <= self.farthest:
            return super().slopes_at(None, device)
        lengths = lengths[None] if lengths.dim() == 0 else lengths
        times = (lengths.to(device).double() - 1).clamp(min=self.farthest) / self.farthest
        kept: Tensor = times[..., None] ** -self.reach_H.to(device)
        return (self.slopes_H.to(device) * kept).float()
