"""Position interpolation (arXiv 2306.15595): position p is turned as position p / factor was in training.

No angle is larger than those of the trained window. But neighbours come closer together, too, `factor` times, so that
a model needs some more training to tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from handscroll.model.position.options import StretchedOptions
from handscroll.model.position.rotary import Rotary, frequencies


@dataclass(frozen=True, kw_only=True)
class LinearOptions(StretchedOptions):
    """Position interpolation. `factor`: new window / trained window."""


class Linear(Rotary):
    def __init__(self, turned_width: int, options: LinearOptions, max_positions: int):
        super().__init__(options.pairing, frequencies(turned_width, options.theta) / options.factor, max_positions)
