"""Rotary position embedding (RoFormer, arXiv 2104.09864), halves paired as in GPT-NeoX and Hugging Face's Llama."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.model.config import RopeOptions

# The table of angles grows with the positions asked for; past the limit they are computed anew each time.
TABLE_START = 1 << 12
TABLE_LIMIT = 1 << 17


class Rotation(NamedTuple):
    """Cosine and sine of each position and feature pair: (..., D/2), float32."""

    cosine: Tensor
    sine: Tensor


class Rope:
    """Turns feature pair (i, i + D/2) by position * theta^(-2i/D) (RoFormer, equations 15 and 34)."""

    def __init__(self, head_width: int, options: RopeOptions, max_positions: int):
        # The host even where a model is being built on the meta device: these are numbers, not weights.
        exponents = torch.arange(0, head_width, 2, dtype=torch.float64, device="cpu") / head_width
        self.frequencies = options.theta**-exponents
        self._table = self._angles(torch.arange(min(max_positions, TABLE_START), device="cpu"))

    def rotation(self, positions: Tensor) -> Rotation:
        """Positions are integers of any shape; the result has one more dimension, D/2."""
        lowest, highest = map(int, positions.aminmax()) if positions.numel() else (0, 0)
        if lowest < 0 or highest >= TABLE_LIMIT:
            return self._angles(positions)
        # A local name: another thread may replace the table by a smaller one between the check and the lookup.
        table = self._table
        if highest >= len(table.cosine):
            table = self._angles(torch.arange(1 << highest.bit_length()))
        if table.cosine.device != positions.device:
            table = Rotation(*(part.to(positions.device) for part in table))
        self._table = table
        return Rotation(table.cosine[positions], table.sine[positions])

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """x (B, H, T, D); the rotation's positions are (T,), (B, T) or (B, H, T). Same dtype and shape back."""
        cosine, sine = rotation
        if cosine.dim() == 3:
            cosine, sine = cosine[:, None], sine[:, None]
        cosine, sine = cosine.to(x.dtype), sine.to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)

    def _angles(self, positions: Tensor) -> Rotation:
        angles = positions.to(torch.float64)[..., None] * self.frequencies.to(positions.device)
        return Rotation(angles.cos().float(), angles.sin().float())
