"""Rotary position embedding (RoFormer, arXiv 2104.09864): all pairs turn as fast as in training, at any length."""

from __future__ import annotations

from handscroll.model.config import RopeOptions
from handscroll.model.position.rotary import Rotary, frequencies


class Rope(Rotary):
    def __init__(self, head_width: int, options: RopeOptions, max_positions: int):
        super().__init__(frequencies(head_width, options.theta), max_positions)
