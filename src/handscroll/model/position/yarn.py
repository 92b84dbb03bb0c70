"""YaRN (arXiv 2309.00071): a pair is slowed down by how seldom it turned in the trained window; attention is sharpened.

Adds to `linear`: a pair that went round often says how far neighbours are apart and keeps its speed; one that didn't
complete a turn says where a token stands in the text and is interpolated by `factor`; a ramp lies between the two
("NTK-by-parts"). In a longer text attention spreads over more keys, so scores are multiplied by the square of
`attention_factor`, 0.1 ln(factor) + 1. As in transformers, cosine and sine carry it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from handscroll.model.position.options import StretchedOptions, check_attention_factor, check_original
from handscroll.model.position.rotary import Rotary, frequencies


@dataclass(frozen=True, kw_only=True)
class YarnOptions(StretchedOptions):
    """Pairs that turn more than `beta_fast` times in `original_max_positions` are kept, less than `beta_slow` slowed.

    `truncate`: the ramp begins and ends at whole pairs. `attention_factor` None: the paper's; where `mscale` and
    `mscale_all_dim` are given, the quotient of the paper's with each in the place of 1 (DeepSeek-V2, arXiv 2405.04434).
    """

    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_original(self.original_max_positions)
        check_attention_factor(self.attention_factor)
        if not math.inf > self.beta_fast >= self.beta_slow > 0:
            raise ValueError(
                f"beta_fast={self.beta_fast} and beta_slow={self.beta_slow}: turns in the trained window, more than 0, "
                "beta_fast at least beta_slow; the paper has 32 and 1"
            )
        if self.theta <= 1:
            raise ValueError(f"theta={self.theta}: YaRN needs more than 1, so that some pairs turn faster than others")


class Yarn(Rotary):
    def __init__(self, turned_width: int, options: YarnOptions, max_positions: int):
        kept = frequencies(turned_width, options.theta)
        ramp = slowed(turned_width, options)
        mixed = kept * (1 - ramp) + kept / options.factor * ramp
        super().__init__(options.pairing, mixed, max_positions, temperature(options))


def slowed(turned_width: int, options: YarnOptions) -> Tensor:
    """(D/2,) float64: 0 where a pair keeps its speed, 1 where it is slowed down by `factor`, a ramp between."""
    first, last = (_pair_that_turns(times, turned_width, options) for times in (options.beta_fast, options.beta_slow))
    if options.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, turned_width - 1)
    # Of no length, a ramp would divide by zero: transformers' way out, so that both give the same.
    length = last - first or 1e-3
    pairs = torch.arange(turned_width // 2, dtype=torch.float64, device="cpu")
    return ((pairs - first) / length).clamp(0, 1)


def temperature(options: YarnOptions) -> float:
    """What cosine and sine are multiplied by."""
    if options.attention_factor is not None:
        return options.attention_factor
    if options.mscale and options.mscale_all_dim:
        return (1 + 0.1 * options.mscale * math.log(options.factor)) / (
            1 + 0.1 * options.mscale_all_dim * math.log(options.factor)
        )
    return 1 + 0.1 * math.log(options.factor)


def _pair_that_turns(times: float, turned_width: int, options: YarnOptions) -> float:
    """The pair, a fraction, that goes round so many times: L theta^(-2i/D) = 2 pi times, solved for i."""
    turns = options.original_max_positions / (times * 2 * math.pi)
    return turned_width * math.log(turns) / (2 * math.log(options.theta))
