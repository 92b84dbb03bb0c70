"""Rotary position embedding (RoFormer, arXiv 2104.09864): all pairs turn as fast as in training, at any length."""

from __future__ import annotations

from handscroll.model.position.rotary import Rotary, frequencies
from handscroll.model.slots import RopeOptions


class Rope(Rotary):
    def __init__(self, turned_width: int, options: RopeOptions, max_positions: int):
        super().__init__(options.pairing, frequencies(turned_width, options.theta), max_positions)
