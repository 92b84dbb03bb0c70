"""NTK-aware interpolation (described in YaRN, arXiv 2309.00071): a larger theta, and nothing else.

Adds to `linear`: what turns fast keeps its speed, so that neighbours stay apart; the slowest pair is slowed down by
`factor`, as in position interpolation. It works without further training, up to a smaller length than
factor * window: pairs in between turn past the angles of training before that.
https://www.reddit.com/r/LocalLLaMA/comments/14lz7j5/ntkaware_scaled_rope_allows_llama_models_to_have/
"""

from __future__ import annotations

from dataclasses import dataclass

from handscroll.model.config import RopeOptions
from handscroll.model.position.options import StretchedOptions
from handscroll.model.position.rotary import Rotary, frequencies, stretched_theta


@dataclass(frozen=True, kw_only=True)
class NtkOptions(StretchedOptions):
    """NTK-aware interpolation at a fixed `factor`."""

    def check_head(self, head_width: int) -> None:
        super().check_head(head_width)
        refuse_one_pair(head_width)

    def plain(self, head_width: int) -> RopeOptions:
        """The unscaled options that give the very same frequencies."""
        return RopeOptions(stretched_theta(self.theta, self.factor, head_width))


class Ntk(Rotary):
    def __init__(self, head_width: int, options: NtkOptions, max_positions: int):
        super().__init__(frequencies(head_width, options.plain(head_width).theta), max_positions)


def refuse_one_pair(head_width: int) -> None:
    if head_width < 4:
        raise ValueError(f"head_width={head_width}: NTK-aware positions need at least 4, a fast and a slow pair")
