"""What the options of stretched positions share: the factor, and the refusal of numbers that mean nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from handscroll.model.slots import RopeOptions


@dataclass(frozen=True, kw_only=True)
class StretchedOptions(RopeOptions):
    """`factor`: how many times longer than the window that the weights were trained on a text may be."""

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor(self.factor)


def check_factor(factor: float) -> None:
    if not 1 <= factor < math.inf:
        raise ValueError(f"factor={factor}: at least 1, and finite; 1 leaves the window as long as it is")


def check_original(max_positions: int) -> None:
    if max_positions < 2:
        raise ValueError(f"original_max_positions={max_positions}: at least 2 tokens, those of the trained window")


def check_attention_factor(factor: float | None) -> None:
    if factor is not None and not 0 < factor < math.inf:
        raise ValueError(f"attention_factor={factor}: more than 0, and finite; left out, it is the paper's")
