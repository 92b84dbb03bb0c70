"""What a model is: sizes and the variant that fills each slot. Everything else about a network follows from here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from handscroll.model.routing import ExpertOptions

Variant = TypeVar("Variant")

MASKS = ("causal", "bidirectional", "prefix")
PLACEMENTS = ("pre", "post", "deepnorm", "sandwich")
PAIRINGS = ("halves", "adjacent")
# Norms whose statistics are a batch's; their running ones are kept with the weights.
RUNNING_NORMS = ("batch", "power")
DROPOUTS = ("attention_dropout", "residual_dropout", "embedding_dropout")


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


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and slots of one network. Widths are in features, lengths in tokens.

    `max_positions` is the trained window: no position encoding has seen a larger distance. In layers from
    `windowed_from` on a token sees itself and the `sliding_window` - 1 before it, with a cache or without one.
    `qk_norm` normalizes each head's queries and keys before they are turned (arXiv 2010.04245).
    `num_kv_heads` equal to `num_heads` is multi-head attention, 1 is multi-query attention.
    `mask`: a token sees those before it (causal), all (bidirectional), or, in a prefix that the layout names, all of
    the prefix. `norm_placement`: where a block normalizes, as in `transformer.py`. `feedforward_norm`: a norm within
    the feed-forward, of what its last matrix reads. `norm_statistics` are for `batch` and `power` norms.
    `shared_layers`: all layers are one, applied `num_layers` times (ALBERT). `experts`: layers have several
    feed-forwards, of which a token takes a few.
    `tied_embeddings`: a head over the vocabulary has the embedding's matrix; other heads have none to share.
    The dropouts are shares that are dropped in training mode only: of attention weights, of what attention and
    feed-forward add to the residual stream, and of the embedding. They are no part of what the model computes.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    feedforward_width: int
    max_positions: int
    attention: AttentionOptions = field(default_factory=GroupedQueryOptions)
    position: PositionOptions = field(default_factory=RopeOptions)
    norm: str = "rms"
    norm_eps: float = 1e-6
    feedforward: str = "swiglu"
    qkv_bias: bool = False
    output_bias: bool = False
    feedforward_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    windowed_from: int = 0
    mask: str = "causal"
    norm_placement: str = "pre"
    feedforward_norm: str | None = None
    norm_statistics: NormStatistics = NormStatistics()
    embedding: EmbeddingOptions = EmbeddingOptions()
    shared_layers: bool = False
    experts: ExpertOptions | None = None
    head: HeadOptions = LmHeadOptions()
    tied_embeddings: bool = False
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    embedding_dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "head_width", "feedforward_width")
        for name in (*sizes, "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: a model needs at least 1")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}: "
                "every kv head serves the same number of query heads"
            )
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window={self.sliding_window}: a token sees at least itself, which is 1")
        if not 0 <= self.windowed_from < self.num_layers:
            raise ValueError(f"windowed_from={self.windowed_from}: the layers are 0 to {self.num_layers - 1}")
        for name, known in (("mask", MASKS), ("norm_placement", PLACEMENTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not known; known: {', '.join(known)}")
        if self.qk_norm and self.norm in RUNNING_NORMS:
            raise ValueError(
                f"qk_norm=True with norm={self.norm!r}: queries and keys are normalized one by one, by rms or layer; "
                "choose one of these, or qk_norm=False"
            )
        if self.feedforward_norm is not None and self.experts is not None:
            raise ValueError(
                f"feedforward_norm={self.feedforward_norm!r} with experts: a norm within is for a feed-forward that "
                "all tokens take; leave one of them out"
            )
        if self.norm_statistics != NormStatistics() and not self.has_running_norms:
            raise ValueError(
                f"norm_statistics are for norms {' and '.join(RUNNING_NORMS)}, and this model has none: leave them out"
            )
        if self.tied_embeddings and isinstance(self.head, VocabularyOptions):
            features = self.head.feature_width(self)
            if features != self.embedding_width:
                raise ValueError(
                    f"an embedding of width {self.embedding_width} can't be the head's matrix, which reads {features} "
                    "features: use tied_embeddings=False"
                )
        if self.experts is not None:
            self.experts.check_layers(1 if self.shared_layers else self.num_layers)
        for name in DROPOUTS:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it is a share, from 0 to less than 1")
        self.position.check_head(self.head_width)
        self.attention.check(self)

    def window_of(self, layer: int) -> int | None:
        """How many tokens a token of this layer sees, itself among them; None: all before it."""
        return self.sliding_window if layer >= self.windowed_from else None

    @property
    def embedding_width(self) -> int:
        return self.embedding.width or self.width

    @property
    def has_running_norms(self) -> bool:
        """Whether training changes more than parameters: statistics that norms keep of all batches so far."""
        return self.norm in RUNNING_NORMS or self.feedforward_norm in RUNNING_NORMS

    @property
    def has_final_norm(self) -> bool:
        """Where blocks end with a norm, no further one follows the last."""
        return self.norm_placement in ("pre", "sandwich")

    @property
    def trained_window(self) -> int:
        """As many tokens as every layer has learnt to see at a time: the narrowest of its windows."""
        return min(self.max_positions, self.sliding_window or self.max_positions)


def chosen(slot: str, name: str, variants: Mapping[str, Variant]) -> Variant:
    """The variant that a config names for a slot. ValueError for an unknown name lists the known ones."""
    if name not in variants:
        raise ValueError(f"{slot}={name!r} is not known; known: {', '.join(variants)}")
    return variants[name]
