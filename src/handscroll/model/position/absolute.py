"""Positions that are added to the embedding: learnt vectors, sines and cosines, or nothing at all.

Attention sees none of them: `Absolute`, its side of the slot, neither turns nor weighs. What is added is a module of
`embedding.py`, found in `ADDED`.

Letters: B batch, T tokens, E width of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from handscroll.model.layout import Layout
from handscroll.model.position.rotary import Rotation, frequencies
from handscroll.model.slots import Learned2dOptions, LearnedOptions, PositionOptions, SinusoidalOptions

# What the paper divides positions by in the last pair of features.
SLOWEST = 10000.0


class Absolute:
    """Queries and keys as they are."""

    depends_on_length = False
    adds_bias = False

    def __init__(self, size: int, options: PositionOptions, max_positions: int):
        pass

    def rotation(self, positions: Tensor, lengths: Tensor | None = None) -> Rotation:
        """Of no pairs: (*positions.shape, 0)."""
        none = torch.empty(*positions.shape, 0, device=positions.device)
        return Rotation(none, none)

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """`x` itself, not a copy."""
        return x

    def bias(self, query_positions: Tensor, key_positions: Tensor, lengths: Tensor | None = None) -> None:
        """None."""


class Learned(nn.Embedding):
    """A vector for each of `max_positions` positions (arXiv 1810.04805, section 3.2)."""

    def __init__(self, max_positions: int, width: int):
        super().__init__(max_positions, width)

    def embed(self, layout: Layout, axis: int = 0) -> Tensor:
        """(B, T, E), or (1, T, E) where rows stand alike. Raises ValueError for a position without a vector."""
        highest = int(layout.axis(axis).max())
        if highest >= self.num_embeddings:
            raise ValueError(
                f"position {highest}: this model has learnt vectors for its first {self.num_embeddings:,} positions "
                "only: give a shorter text, or choose a model with rotary positions or ALiBi"
            )
        vectors_BTE: Tensor = self(_positions(layout, axis))
        return vectors_BTE


class Learned2d(nn.Module):
    """A table for each of two axes (GLM, arXiv 2103.10360, section 2.2): places in the text, and places in a span."""

    def __init__(self, max_positions: int, width: int):
        super().__init__()
        self.text, self.span = Learned(max_positions, width), Learned(max_positions, width)

    def embed(self, layout: Layout) -> Tensor:
        """(B, T, E), or (1, T, E) where rows stand alike."""
        return self.text.embed(layout, 0) + self.span.embed(layout, 1)


class Sinusoidal:
    """sin(p / 10000^(2i/E)) in feature 2i, the cosine in 2i + 1; angles in float64."""

    def __init__(self, max_positions: int, width: int):
        if width % 2:
            raise ValueError(f"an embedding of width {width} can't have sinusoidal positions: they come in pairs")
        self.frequencies = frequencies(width, SLOWEST)

    def embed(self, layout: Layout) -> Tensor:
        """(B, T, E) float32, or (1, T, E) where rows stand alike."""
        positions = _positions(layout, 0)
        angles = positions.to(torch.float64)[..., None] * self.frequencies.to(positions.device)
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).float()


ADDED: dict[type[PositionOptions], Callable[[int, int], Any]] = {
    LearnedOptions: Learned,
    Learned2dOptions: Learned2d,
    SinusoidalOptions: Sinusoidal,
}


def _positions(layout: Layout, axis: int) -> Tensor:
    positions_BT = layout.axis(axis)
    return positions_BT[:1] if layout.stands_alike else positions_BT
