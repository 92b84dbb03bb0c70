"""Rotary positions in two axes, as in ChatGLM-6B: half of a head turns by the place in the text, half by that in a span
(GLM, arXiv 2103.10360, section 2.2; RoFormer, arXiv 2104.09864).

Adds to `rope`: the second axis. Each half is a head of its own to `Rope`. Where a layout has one axis only, every token
is one of the text, whose place in a span is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from handscroll.model.position.rope import Rope
from handscroll.model.position.rotary import Rotation
from handscroll.model.slots import PositionOptions, RopeOptions


@dataclass(frozen=True, kw_only=True)
class Rope2dOptions(PositionOptions):
    """`theta` as in `RopeOptions`, for both axes."""

    axes: ClassVar[int] = 2

    theta: float = 10000.0

    def check_head(self, head_width: int) -> None:
        if head_width % 4:
            raise ValueError(
                f"head_width={head_width}: positions in two axes turn pairs in both halves: use a multiple of 4"
            )


class Rope2d:
    depends_on_length = False
    adds_bias = False

    def __init__(self, head_width: int, options: Rope2dOptions, max_positions: int):
        self.axis = Rope(head_width // 2, RopeOptions(theta=options.theta), max_positions)

    def rotation(self, positions: Tensor, lengths: Tensor | None = None) -> Rotation:
        """Of tokens of the text: the second axis is 0."""
        return self._joined(positions, torch.zeros_like(positions))

    def rotation_in_plane(self, positions_BTP: Tensor) -> Rotation:
        """(B, T, D) of positions with one axis or two."""
        if positions_BTP.shape[-1] == 1:
            return self.rotation(positions_BTP[..., 0])
        return self._joined(positions_BTP[..., 0], positions_BTP[..., 1])

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """As `Rotary.rotate`, half by half."""
        halves = zip(x.chunk(2, dim=-1), *(part.chunk(2, dim=-1) for part in rotation), strict=True)
        return torch.cat([self.axis.rotate(half, Rotation(*turn)) for half, *turn in halves], dim=-1)

    def bias(self, query_positions: Tensor, key_positions: Tensor, lengths: Tensor | None = None) -> None:
        """None: turned queries and keys say it all."""

    def _joined(self, first: Tensor, second: Tensor) -> Rotation:
        parts = zip(self.axis.rotation(first), self.axis.rotation(second), strict=True)
        return Rotation(*(torch.cat(part, dim=-1) for part in parts))
