"""The position slot: how attention learns where a token stands.

A variant gives `rotation(positions, lengths)`, the cosines and sines of some positions, and `rotate(x, rotation)`; the
two are apart so that one rotation serves queries, keys and all layers. Angles are computed in float64 and cast after
the cosine and sine: at ten million tokens float32 angles are wrong by 0.3 in a score.

All variants are rotary (`rotary.py`). Those beside `rope` turn some pairs slower, so that a text longer than the
trained window shows the model no angle that it hasn't seen.

To add a variant: write `position/NAME.py` with its options, a kind of `RopeOptions`, and one line below;
`families/rope.py` says how a checkpoint names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from handscroll.model.config import ModelConfig, RopeOptions
from handscroll.model.layout import Layout
from handscroll.model.position.dynamic import Dynamic, DynamicOptions
from handscroll.model.position.linear import Linear, LinearOptions
from handscroll.model.position.llama3 import Llama3, Llama3Options
from handscroll.model.position.longrope import LongRope, LongRopeOptions
from handscroll.model.position.ntk import Ntk, NtkOptions
from handscroll.model.position.rope import Rope
from handscroll.model.position.rotary import Rotation
from handscroll.model.position.yarn import Yarn, YarnOptions


class Position(Protocol):
    @property
    def depends_on_length(self) -> bool:
        """Whether the same position turns differently in a longer text: keys are then kept unrotated."""

    def rotation(self, positions: Tensor, lengths: Tensor | None = None) -> Rotation:
        """Cosines and sines (*positions.shape, D/2) float32 of integer positions of any shape.

        `lengths`: tokens of the text that each position belongs to, broadcastable to the positions; None: no more than
        the model needs no stretching for. Only a variant that depends on the length looks at them.
        """

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """x (B, H, T, D) turned by a rotation of positions (T,), (B, T) or (B, H, T)."""


POSITIONS: dict[type[RopeOptions], Callable[[int, Any, int], Position]] = {
    RopeOptions: Rope,
    LinearOptions: Linear,
    NtkOptions: Ntk,
    DynamicOptions: Dynamic,
    YarnOptions: Yarn,
    Llama3Options: Llama3,
    LongRopeOptions: LongRope,
}


def make_position(config: ModelConfig) -> Position:
    return POSITIONS[type(config.position)](config.head_width, config.position, config.max_positions)


def rotation_of(position: Position, layout: Layout, asking: Layout | None = None) -> Rotation:
    """The rotation of a layout's tokens, or of those `asking` that were picked from it, in texts of its lengths."""
    lengths_BT = layout.text_lengths(asking) if position.depends_on_length else None
    return position.rotation((asking or layout).positions_BTP[..., 0], lengths_BT)


__all__ = [
    "POSITIONS",
    "DynamicOptions",
    "LinearOptions",
    "Llama3Options",
    "LongRopeOptions",
    "NtkOptions",
    "Position",
    "Rope",
    "Rotation",
    "YarnOptions",
    "make_position",
    "rotation_of",
]
