"""Llama 3.1's scaling (arXiv 2407.21783): pairs that hardly turned in the trained window are slowed down.

Differs from `yarn`: the ramp between the kept and the slowed pairs is linear in how often a pair goes round, not in its
number, and scores keep their size. https://github.com/meta-llama/llama-models/blob/main/models/llama3/model.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from handscroll.model.position.options import StretchedOptions, check_original
from handscroll.model.position.rotary import Rotary, frequencies


@dataclass(frozen=True, kw_only=True)
class Llama3Options(StretchedOptions):
    """Pairs that go round at least `high_freq_factor` times in `original_max_positions` keep their speed.

    Those that do so at most `low_freq_factor` times are slowed down by `factor`.
    """

    original_max_positions: int
    low_freq_factor: float
    high_freq_factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_original(self.original_max_positions)
        if not math.inf > self.high_freq_factor > self.low_freq_factor > 0:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor} and high_freq_factor={self.high_freq_factor}: turns in the "
                "trained window, more than 0, high_freq_factor the larger; Llama 3.1 has 1 and 4"
            )


class Llama3(Rotary):
    def __init__(self, turned_width: int, options: Llama3Options, max_positions: int):
        plain = frequencies(turned_width, options.theta)
        turns = options.original_max_positions * plain / (2 * math.pi)
        low, high = options.low_freq_factor, options.high_freq_factor
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        super().__init__(options.pairing, plain * kept + plain / options.factor * (1 - kept), max_positions)
