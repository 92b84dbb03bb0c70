"""What fills a model's slots: the options that every variant of a slot is a kind of, and the plainest kinds.

A variant that has more to say has its own options beside its class, in `position/`, `attention/` or `heads/`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from handscroll.model.config import ModelConfig

PAIRINGS = ("halves", "adjacent")


@dataclass(frozen=True)
class PositionOptions:
    """What fills the position slot: each way of saying where a token stands has a kind of these, in `position/`.

    `axes`: how many positions of a token it looks at.
    """

    axes: ClassVar[int] = 1

    # Whether scores get a bias by distance: not every way of attending has scores one by one.
    adds_bias: ClassVar[bool] = False
    # Whether it is the query that says what a distance adds.
    asks_query: ClassVar[bool] = False

    def check_head(self, head_width: int) -> None:
        """ValueError where heads of this width can't be told so."""


@dataclass(frozen=True)
class RopeOptions(PositionOptions):
    """Rotary position embedding (RoFormer, arXiv 2104.09864): angle of pair i at position p is p * theta^(-2i/D).

    `pairing`: feature i goes with feature i + D/2 ("halves", as in GPT-NeoX and Llama), or 2i with 2i + 1 ("adjacent",
    as in the paper, in GPT-J and GLM). `share`: how much of a head is turned, from its first feature on; the rest says
    what a token is, wherever it stands, and D is the width of what is turned.
    Options that stretch the window are kinds of these, each in its file of `position/`.
    """

    theta: float = 10000.0
    pairing: str = "halves"
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.pairing not in PAIRINGS:
            raise ValueError(f"pairing={self.pairing!r}: the features of a head are paired as {' or '.join(PAIRINGS)}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: how much of a head is turned, more than 0, at most 1")

    def turned(self, head_width: int) -> int:
        """How many features of a head are turned."""
        return int(head_width * self.share)

    def check_head(self, head_width: int) -> None:
        turned = self.turned(head_width)
        if turned % 2 or not turned:
            raise ValueError(
                f"head_width={head_width} with share={self.share}: {turned} features would be turned, which is "
                f"{'odd' if turned else 'none'}; rotary positions turn pairs of features"
            )


@dataclass(frozen=True, kw_only=True)
class NoPositionOptions(PositionOptions):
    """Nothing says where a token stands but the causal mask (NoPE, arXiv 2305.19466)."""


@dataclass(frozen=True, kw_only=True)
class LearnedOptions(PositionOptions):
    """One learnt vector per position, added to the embedding (BERT, GPT-2): none for positions past `max_positions`."""


@dataclass(frozen=True, kw_only=True)
class Learned2dOptions(PositionOptions):
    """A learnt vector for the place in the text and one for the place in a span, both added (GLM)."""

    axes: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class SinusoidalOptions(PositionOptions):
    """Sines and cosines of every position, added to the embedding (arXiv 1706.03762, section 3.5)."""


@dataclass(frozen=True)
class EmbeddingOptions:
    """What a token's vector is made of before the first layer.

    `width`: of the table, which a matrix brings to the model's width (ALBERT, arXiv 1909.11942, section 3.1).
    `segments`: how many kinds of token there are, each with a vector of its own (BERT); `tasks` alike (ERNIE 2.0, arXiv
    1907.12412, section 3.2). `norm`: whether the sum is normalized.
    """

    width: int | None = None
    segments: int = 0
    tasks: int = 0
    norm: bool = False

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise ValueError(f"embedding width={self.width}: at least 1, or leave it out for the model's width")
        for name in ("segments", "tasks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: how many kinds of token there are, 0 or more")


@dataclass(frozen=True)
class HeadOptions:
    """What becomes of the last hidden states: each head has a kind of these, in `heads/`."""

    def parameter_count(self, config: ModelConfig) -> int:
        """Numbers in the head's weights, by formula."""
        return 0


@dataclass(frozen=True)
class VocabularyOptions(HeadOptions):
    """Heads that tell tokens: features, then a linear map to the vocabulary."""

    @property
    def has_bias(self) -> bool:
        return False

    def feature_width(self, config: ModelConfig) -> int:
        """Of what the linear map reads; where it is tied, the embedding's."""
        return config.width

    def parameter_count(self, config: ModelConfig) -> int:
        own = 0 if config.tied_embeddings else self.feature_width(config)
        return config.vocab_size * (own + int(self.has_bias))


@dataclass(frozen=True)
class LmHeadOptions(VocabularyOptions):
    """The next token's logits, straight from the hidden states."""

    bias: bool = False

    @property
    def has_bias(self) -> bool:
        return self.bias


@dataclass(frozen=True)
class NormStatistics:
    """How running statistics of `batch` and `power` norms follow the batches': by the share `momentum` each step.

    For the first `warmup` steps a step's share is at least that of a mean over all steps so far, and `power` divides by
    the batch's own statistics.
    """

    momentum: float = 0.1
    warmup: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum={self.momentum}: a step's share of running statistics, above 0 and at most 1")
        if self.warmup < 0:
            raise ValueError(f"warmup={self.warmup}: a number of steps, 0 or more")


@dataclass(frozen=True)
class AttentionOptions:
    """What fills the attention slot: each way of attending has a kind of these, in `attention/`."""

    def check(self, config: ModelConfig) -> None:
        """ValueError where another setting of the model doesn't go with it."""

    def further_matrices(self, config: ModelConfig) -> int:
        """Numbers in a layer's matrices besides q, k, v and o."""
        return 0

    def further_activations(self, config: ModelConfig) -> int:
        """Numbers per token that a layer's backward pass reads besides those of softmax attention."""
        return 0


@dataclass(frozen=True)
class GroupedQueryOptions(AttentionOptions):
    """Softmax attention to all that a token sees; how many heads share keys and values, `num_kv_heads` says.

    `scale`: what products of queries and keys are multiplied by; None: 1 / sqrt(head width) (arXiv 1706.03762, section
    3.2.1), which keeps their spread from growing with the width.
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(
                f"attention scale={self.scale}: scores are multiplied by it; give a number above 0, 1.0 for plain "
                "products, or leave it out for 1 / sqrt(head width)"
            )

    def check(self, config: ModelConfig) -> None:
        if self.scale is not None and config.position.asks_query:
            raise ValueError(
                f"attention scale={self.scale}: what relative positions add to scores is divided by sqrt(head width), "
                "whatever the scale: leave it out, or use other positions"
            )
