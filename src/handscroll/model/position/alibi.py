"""ALiBi (arXiv 2108.12409): nothing turns; a score loses the distance between query and key times the head's slope.

Heads of steep slopes read what is near, those of shallow ones the whole window. A longer text shows the model larger
distances, but only ones that count less and less, so that it can be read without further training.

Letters: H heads, T queries, S keys; ... a batch or nothing.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from handscroll.model.position.rotary import Rotation
from handscroll.model.slots import PositionOptions


@dataclass(frozen=True, kw_only=True)
class AlibiOptions(PositionOptions):
    """ALiBi has nothing to choose: slopes follow from the number of heads."""

    adds_bias: ClassVar[bool] = True


class Alibi:
    depends_on_length = False
    adds_bias = True

    def __init__(self, num_heads: int, options: AlibiOptions, max_positions: int):
        self.slopes_H = slopes(num_heads)

    def rotation(self, positions: Tensor, lengths: Tensor | None = None) -> Rotation:
        """Of no pairs: (*positions.shape, 0)."""
        none = torch.empty(*positions.shape, 0, device=positions.device)
        return Rotation(none, none)

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """`x` itself, not a copy."""
        return x

    def bias(self, query_positions: Tensor, key_positions: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(..., H, T, S) float32: -slope * distance (section 3), for queries (..., T) and keys (..., S).

        Where kv heads hold different keys, these are (B, K, S) and queries (B, T). `lengths` as in `rotation`, of the
        texts that the queries belong to. A key behind its query, which only tokens that look across rows can see, loses
        as much as one before it.
        """
        if key_positions.dim() == 3:
            key_positions = key_positions.repeat_interleave(len(self.slopes_H) // key_positions.shape[1], 1)
        else:
            key_positions = key_positions[..., None, :]
        distance = (query_positions[..., None, :, None] - key_positions[..., None, :]).abs()
        slopes_HT1 = self.slopes_at(lengths, query_positions.device).movedim(-1, -2)[..., None]
        return -slopes_HT1 * distance

    def of_heads(self, heads: slice) -> Self:
        """That of some of the heads."""
        part = copy(self)
        part.slopes_H = self.slopes_H[heads]
        return part

    def slopes_at(self, lengths: Tensor | None, device: torch.device) -> Tensor:
        """(..., H) float32: those in texts of these lengths (...), here the same in all: (1, H)."""
        return self.slopes_H[None].to(device)


def slopes(num_heads: int) -> Tensor:
    """(H,) float32: 2^(-8/n), 2^(-16/n), ..., 2^-8 for a number n of heads that is a power of two.

    For other numbers the authors take those of the next lower power of two, then every other one of the next higher.
    """
    lower = 1 << (num_heads.bit_length() - 1)
    # The host even where a model is being built on the meta device: these are numbers, not weights.
    whole = torch.arange(1, lower + 1, dtype=torch.float64, device="cpu") * 8 / lower
    between = (torch.arange(num_heads - lower, dtype=torch.float64, device="cpu") + 0.5) * 8 / lower
    return (2.0 ** -torch.cat((whole, between))).float()
