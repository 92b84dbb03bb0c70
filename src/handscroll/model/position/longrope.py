"""LongRoPE (arXiv 2402.13753): a factor for each pair, found by search; one set for short texts, one for long ones.

Adds to `yarn`: no formula says which pair is slowed down by how much. A text longer than the original window is turned
by the long factors from its first token on, so a key that was kept while it was shorter has to be turned anew. Scores
are multiplied by the square of `attention_factor`, sqrt(1 + ln(stretch) / ln(original window)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from handscroll.model.position.options import check_attention_factor, check_factor, check_original
from handscroll.model.position.rotary import Rotary, Rotation, frequencies
from handscroll.model.slots import RopeOptions


@dataclass(frozen=True, kw_only=True)
class LongRopeOptions(RopeOptions):
    """Pair i turns `short_factor[i]` times slower, in a text of more than `original_max_positions` `long_factor[i]`.

    `factor` None: `max_positions` / `original_max_positions`; `attention_factor` None: the paper's, which follows.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_positions: int
    factor: float | None = None
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_original(self.original_max_positions)
        check_attention_factor(self.attention_factor)
        if self.factor is not None:
            check_factor(self.factor)
        for name in ("short_factor", "long_factor"):
            for value in getattr(self, name):
                if not 0 < value < math.inf:
                    raise ValueError(f"{name} holds {value}: every factor is more than 0, and finite")

    def check_head(self, head_width: int) -> None:
        super().check_head(head_width)
        pairs = self.turned(head_width) // 2
        for name in ("short_factor", "long_factor"):
            given = len(getattr(self, name))
            if given != pairs:
                raise ValueError(
                    f"{name} holds {given} factors, but head_width={head_width} has {pairs} pairs: "
                    "give one factor a pair"
                )


class LongRope(Rotary):
    depends_on_length = True

    def __init__(self, turned_width: int, options: LongRopeOptions, max_positions: int):
        self.options = options
        plain = frequencies(turned_width, options.theta)
        short, long = (
            plain / torch.tensor(factors, dtype=torch.float64, device="cpu")
            for factors in (options.short_factor, options.long_factor)
        )
        attention_factor = temperature(options, max_positions)
        super().__init__(options.pairing, short, options.original_max_positions, attention_factor)
        self.long = Rotary(options.pairing, long, max_positions, attention_factor)

    def rotation(self, positions: Tensor, lengths: Tensor | None = None) -> Rotation:
        is_long = None if lengths is None else lengths > self.options.original_max_positions
        if is_long is None or not is_long.any():
            return super().rotation(positions)
        long = self.long.rotation(positions)
        if is_long.all():
            return long
        both = zip(long, super().rotation(positions), strict=True)
        return Rotation(*(torch.where(is_long[..., None], *pair) for pair in both))


def temperature(options: LongRopeOptions, max_positions: int) -> float:
    """What cosine and sine are multiplied by, in short texts as in long ones."""
    if options.attention_factor is not None:
        return options.attention_factor
    factor = options.factor or max_positions / options.original_max_positions
    return math.sqrt(1 + math.log(max(factor, 1)) / math.log(options.original_max_positions))
