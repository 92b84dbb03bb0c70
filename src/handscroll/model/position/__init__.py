"""The position slot: how attention learns where a token stands.

A variant gives `rotation(positions)`, the cosines and sines of some positions, and `rotate(x, rotation)`; the two are
apart so that one rotation serves queries, keys and all layers. Angles are computed in float64 and cast after the cosine
and sine: at ten million tokens float32 angles are wrong by 0.3 in a score.

To add a variant: write `position/NAME.py` with its options class in `model/config.py`, and one line below.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from handscroll.model.config import ModelConfig, RopeOptions
from handscroll.model.position.rope import Rope, Rotation


class Position(Protocol):
    def rotation(self, positions: Tensor) -> Rotation:
        """Cosines and sines (*positions.shape, D/2) float32 of integer positions of any shape."""

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """x (B, H, T, D) turned by a rotation of positions (T,), (B, T) or (B, H, T)."""


POSITIONS = {RopeOptions: Rope}


def make_position(config: ModelConfig) -> Position:
    return POSITIONS[type(config.position)](config.head_width, config.position, config.max_positions)


__all__ = ["POSITIONS", "Position", "Rope", "Rotation", "make_position"]
