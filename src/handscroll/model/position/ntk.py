"""NTK-aware interpolation (described in YaRN, arXiv 2309.00071): a larger theta, and nothing else.

Adds to `linear`: what turns fast keeps its speed, so that neighbours stay apart; the slowest pair is slowed down by
`factor`, as in position interpolation. It works without further training, up to a smaller length than
factor * window: pairs in between turn past the angles of training before that.
https://www.reddit.com/r/LocalLLaMA/comments/14lz7j5/ntkaware_scaled_rope_allows_llama_models_to_have/
"""

from __future__ import annotations

from dataclasses import dataclass

from handscroll.model.position.options import StretchedOptions
from handscroll.model.position.rotary import Rotary, frequencies, stretched_theta
from handscroll.model.slots import RopeOptions


@dataclass(frozen=True, kw_only=True)
class NtkOptions(StretchedOptions):
    """NTK-aware interpolation at a fixed `factor`."""

    def check_head(self, head_width: int) -> None:
        super().check_head(head_width)
        refuse_one_pair(self.turned(head_width))

    def plain(self, head_width: int) -> RopeOptions:
        """The unscaled options that give the very same frequencies."""
        theta = stretched_theta(self.theta, self.factor, self.turned(head_width))
        return RopeOptions(theta, self.pairing, self.share)


class Ntk(Rotary):
    def __init__(self, turned_width: int, options: NtkOptions, max_positions: int):
        theta = stretched_theta(options.theta, options.factor, turned_width)
        super().__init__(options.pairing, frequencies(turned_width, theta), max_positions)


def refuse_one_pair(turned_width: int) -> None:
    if turned_width < 4:
        raise ValueError(
            f"{turned_width} features of a head are turned: NTK-aware positions need at least 4, a fast and a slow pair"
        )
