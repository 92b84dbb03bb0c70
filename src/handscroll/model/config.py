"""What a model is: sizes and the variant that fills each slot. All else about a network follows from here.

The options that a slot may be filled with are kinds of those in `slots.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from handscroll.model.routing import ExpertOptions
from handscroll.model.slots import (
    AttentionOptions,
    EmbeddingOptions,
    GroupedQueryOptions,
    HeadOptions,
    LmHeadOptions,
    NormStatistics,
    PositionOptions,
    RopeOptions,
    VocabularyOptions,
)

Variant = TypeVar("Variant")

MASKS = ("causal", "bidirectional", "prefix")
PLACEMENTS = ("pre", "post", "deepnorm", "sandwich")
# Norms whose statistics are a batch's; their running ones are kept with the weights.
RUNNING_NORMS = ("batch", "power")
DROPOUTS = ("attention_dropout", "residual_dropout", "embedding_dropout")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and slots of one network. Widths are in features, lengths in tokens.

    `max_positions` is the trained window: no position encoding has seen a larger distance. In layers from
    `windowed_from` on a token sees itself and the `sliding_window` - 1 before it, with a cache or without one.
    `qk_norm` normalizes each head's queries and keys before they are turned (arXiv 2010.04245).
    `num_kv_heads` equal to `num_heads` is multi-head attention, 1 is multi-query attention.
    `mask`: a token sees those before it (causal), all (bidirectional), or, in a prefix that the layout names, all of
    the prefix. `norm_placement`: where a block normalizes, as in `block.py`. `feedforward_norm`: a norm within
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
    norm_statistics: NormStatistics = field(default_factory=NormStatistics)
    embedding: EmbeddingOptions = field(default_factory=EmbeddingOptions)
    shared_layers: bool = False
    experts: ExpertOptions | None = None
    head: HeadOptions = field(default_factory=LmHeadOptions)
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
