"""Dynamic NTK (described in YaRN, arXiv 2309.00071): the window is stretched as far as the text is long.

Adds to `ntk`: within the trained window nothing changes at all; past it theta grows with the text. All tokens of a text
turn at the speed of its length, so a key that was kept while the text was shorter has to be turned anew.
https://www.reddit.com/r/LocalLLaMA/comments/14mrgpr/dynamically_scaled_rope_further_increases/
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from handscroll.model.position.ntk import refuse_one_pair
from handscroll.model.position.options import StretchedOptions
from handscroll.model.position.rotary import Rotary, Rotation, frequencies, stretched_theta


@dataclass(frozen=True, kw_only=True)
class DynamicOptions(StretchedOptions):
    """Dynamic NTK. `factor`: 1 stretches as far as the text is long, more than 1 further."""

    def check_head(self, head_width: int) -> None:
        super().check_head(head_width)
        refuse_one_pair(self.turned(head_width))


class Dynamic(Rotary):
    depends_on_length = True

    def __init__(self, turned_width: int, options: DynamicOptions, max_positions: int):
        super().__init__(options.pairing, frequencies(turned_width, options.theta), max_positions)
        self.options, self.max_positions = options, max_positions

    def rotation(self, positions: Tensor, lengths: Tensor | None = None) -> Rotation:
        if lengths is None or int(lengths.max()) <= self.max_positions:
            return super().rotation(positions)
        return self._angles(positions, self.frequencies_at(lengths))

    def frequencies_at(self, lengths: Tensor) -> Tensor:
        """(..., D/2): those of texts of these lengths (...)."""
        times = lengths.double().clamp(min=self.max_positions) / self.max_positions
        factor = self.options.factor * times - (self.options.factor - 1)
        return frequencies(self.turned_width, stretched_theta(self.options.theta, factor, self.turned_width)[..., None])
