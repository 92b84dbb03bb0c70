"""The position slot: how attention learns where a token stands.

A variant gives `rotation(positions, lengths)`, the cosines and sines of some positions, and `rotate(x, rotation)`; the
two are apart so that one rotation serves queries, keys and all layers. Angles are computed in float64 and cast after
the cosine and sine: at ten million tokens float32 angles are wrong by 0.3 in a score.

Most variants are rotary (`rotary.py`). Those beside `rope` turn some pairs slower, so that a text longer than the
trained window shows the model no angle that it hasn't seen. `alibi` turns nothing, but adds to each head's scores a
`bias` by distance; `dynamic_alibi` stretches it. What `absolute` adds to the embedding, attention does not see.
`rope_2d` and `learned_2d` look at a second axis of positions, which GLM's spans have.
`relative` has weights: what it adds to a score depends on the query, too (`RelativeLayer.said`).

To add a variant: write `position/NAME.py` with its options, a kind of `RopeOptions` or `AlibiOptions`, and one line
below; `families/` says how a checkpoint names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.position.absolute import Absolute
from handscroll.model.position.alibi import Alibi, AlibiOptions
from handscroll.model.position.dynamic import Dynamic, DynamicOptions
from handscroll.model.position.dynamic_alibi import DynamicAlibi, DynamicAlibiOptions
from handscroll.model.position.linear import Linear, LinearOptions
from handscroll.model.position.llama3 import Llama3, Llama3Options
from handscroll.model.position.longrope import LongRope, LongRopeOptions
from handscroll.model.position.ntk import Ntk, NtkOptions
from handscroll.model.position.relative import Relative, RelativeLayer, RelativeOptions
from handscroll.model.position.rope import Rope
from handscroll.model.position.rope_2d import Rope2d, Rope2dOptions
from handscroll.model.position.rotary import Rotation
from handscroll.model.position.yarn import Yarn, YarnOptions
from handscroll.model.slots import (
    Learned2dOptions,
    LearnedOptions,
    NoPositionOptions,
    PositionOptions,
    RopeOptions,
    SinusoidalOptions,
)


class Position(Protocol):
    @property
    def depends_on_length(self) -> bool:
        """Whether the same position turns differently in a longer text: keys are then kept unrotated."""

    @property
    def adds_bias(self) -> bool:
        """Whether scores get a `bias`. Whoever attends asks first: rotary positions cost no mask."""

    def rotation(self, positions: Tensor, lengths: Tensor | None = None) -> Rotation:
        """Cosines and sines (*positions.shape, R) float32 of integer positions of any shape, for `rotate`.

        `lengths`: tokens of the text that each position belongs to, broadcastable to the positions; None: no more than
        the model needs no stretching for. Only a variant that depends on the length looks at them.
        """

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        """x (B, H, T, D) turned by a rotation of positions (T,), (B, T) or (B, H, T)."""

    def bias(self, query_positions: Tensor, key_positions: Tensor, lengths: Tensor | None = None) -> Tensor | None:
        """What is added to scores, (H, T, S) or (B, H, T, S) float32; None where the position adds none.

        Positions are (T,) and (S,), or (B, T) and (B, S), or (B, K, S) where kv heads hold different keys; `lengths` as
        above, those of the queries' texts.
        """


POSITIONS: dict[type[PositionOptions], Callable[..., Position]] = {
    RopeOptions: Rope,
    LinearOptions: Linear,
    NtkOptions: Ntk,
    DynamicOptions: Dynamic,
    YarnOptions: Yarn,
    Llama3Options: Llama3,
    LongRopeOptions: LongRope,
    Rope2dOptions: Rope2d,
    AlibiOptions: Alibi,
    DynamicAlibiOptions: DynamicAlibi,
    LearnedOptions: Absolute,
    Learned2dOptions: Absolute,
    SinusoidalOptions: Absolute,
    NoPositionOptions: Absolute,
    RelativeOptions: Relative,
}


# By the names that recipes and Handscroll's own folders have for them.
POSITION_KINDS: dict[str, type[PositionOptions]] = {
    "rope": RopeOptions,
    "linear": LinearOptions,
    "ntk": NtkOptions,
    "dynamic": DynamicOptions,
    "yarn": YarnOptions,
    "llama3": Llama3Options,
    "longrope": LongRopeOptions,
    "rope_2d": Rope2dOptions,
    "alibi": AlibiOptions,
    "dynamic_alibi": DynamicAlibiOptions,
    "learned": LearnedOptions,
    "learned_2d": Learned2dOptions,
    "sinusoidal": SinusoidalOptions,
    "none": NoPositionOptions,
    "relative": RelativeOptions,
}


def make_position(config: ModelConfig) -> Position:
    if isinstance(config.position, RelativeOptions):
        return Relative(config)
    if isinstance(config.position, Rope2dOptions):
        return Rope2d(config.head_width, config.position, config.max_positions)
    # Pairs of a head's features differ in their speed, heads in their slope.
    position = config.position
    size = position.turned(config.head_width) if isinstance(position, RopeOptions) else config.num_heads
    return POSITIONS[type(position)](size, position, config.max_positions)


def of_layer(position: Position, number: int) -> Position:
    """What the memory of a layer (0: the first) asks: relative positions have weights of their own in each."""
    return position.layer(number) if isinstance(position, Relative) else position


def of_heads(position: Position, heads: slice) -> Position:
    """What the memory of some heads asks: a position that weighs distances does so in each by its own measure."""
    return position.of_heads(heads) if isinstance(position, Alibi | RelativeLayer) else position


def rotation_of(position: Position, layout: Layout, asking: Layout | None = None) -> Rotation:
    """The rotation of a layout's tokens, or of those `asking` that were picked from it, in texts of its lengths."""
    lengths_BT = layout.text_lengths(asking) if position.depends_on_length else None
    return rotation_at(position, (asking or layout).positions_BTP, lengths_BT)


def rotation_at(position: Position, positions_BTP: Tensor, lengths: Tensor | None = None) -> Rotation:
    """The rotation of positions as layouts have them; few look further than the first axis."""
    if isinstance(position, Rope2d):
        return position.rotation_in_plane(positions_BTP)
    return position.rotation(positions_BTP[..., 0], lengths)


def bias_of(position: Position, layout: Layout, asking: Layout | None = None) -> Tensor | None:
    """The bias between a layout's tokens, or from those `asking` that were picked from it to all of them."""
    lengths_BT = layout.text_lengths(asking) if position.depends_on_length else None
    if asking is None:
        return position.bias(layout.row_positions, layout.row_positions, lengths_BT)
    return position.bias((asking or layout).positions_BTP[..., 0], layout.positions_BTP[..., 0], lengths_BT)


__all__ = [
    "POSITIONS",
    "POSITION_KINDS",
    "AlibiOptions",
    "DynamicAlibiOptions",
    "DynamicOptions",
    "Learned2dOptions",
    "LearnedOptions",
    "LinearOptions",
    "Llama3Options",
    "LongRopeOptions",
    "NoPositionOptions",
    "NtkOptions",
    "Position",
    "Relative",
    "RelativeLayer",
    "RelativeOptions",
    "Rope",
    "Rope2d",
    "Rope2dOptions",
    "Rotation",
    "SinusoidalOptions",
    "YarnOptions",
    "bias_of",
    "make_position",
    "of_heads",
    "of_layer",
    "rotation_at",
    "rotation_of",
]
