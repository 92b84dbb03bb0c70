"""The model section of a recipe: a folder's model, changed or as it is, or a new one by its sizes and slots.

Knows the model room's options by their kinds. The other sections stand in `schema.py`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from handscroll.model import ModelConfig, RopeOptions
from handscroll.model.attention import ATTENTION_KINDS
from handscroll.model.config import MASKS, PLACEMENTS
from handscroll.model.feedforward import FEEDFORWARDS, GATED
from handscroll.model.heads import HEAD_KINDS
from handscroll.model.norm import NORMS
from handscroll.model.options import read_options
from handscroll.model.position import POSITION_KINDS
from handscroll.model.routing import ExpertOptions
from handscroll.model.sharing import POOLINGS, shared_config
from handscroll.model.slots import EmbeddingOptions, NormStatistics, PositionOptions
from handscroll.model.stretching import METHODS, stretch
from handscroll.recipes.sections import Section, options_of, section_of

Size = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class FromFolder(Section):
    """What a folder or a hub id ("org/name") already holds."""

    source: str = Field(alias="from", min_length=1)


class Stretch(Section):
    """A longer window than the folder's model has, `to` tokens; keys beside these are the method's own options."""

    model_config = ConfigDict(extra="allow")

    method: Literal[tuple(METHODS)]  # type: ignore[valid-type]
    to: Size

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class ShareHeads(Section):
    """Fewer heads for keys and values than the folder's model has: each of them pools a group of its heads."""

    kv_heads: Size
    pooling: Literal[tuple(POOLINGS)] = "mean"  # type: ignore[valid-type]


class FromModel(FromFolder):
    """A model that is trained further, under its own window or a stretched one, with its own heads or pooled ones."""

    stretch: Stretch | None = None
    share_heads: ShareHeads | None = None

    def changed(self, config: ModelConfig) -> ModelConfig:
        """What becomes of the folder's config. ValueError where it can't be."""
        if self.stretch is not None:
            config = stretch(config, self.stretch.method, self.stretch.to, self.stretch.options)
        if self.share_heads is not None:
            config = shared_config(config, self.share_heads.kv_heads, self.share_heads.pooling)
        return config


NewEmbedding = section_of(EmbeddingOptions, Section)
NewExperts = section_of(ExpertOptions, Section, without=("width",), width=(Size | None, None))
Statistics = section_of(NormStatistics, Section)


class NewModel(Section):
    """Sizes of a model that starts from random weights: widths in features, `window` in tokens."""

    width: Size
    layers: Size
    heads: Size
    kv_heads: Size | None = Field(None, description="default: as many as heads")
    head_width: Size | None = Field(None, description="default: width / heads")
    feedforward_width: Size | None = Field(
        None, description="default: 8/3 of width, 4 times it where nothing is gated; rounded up to a multiple of 32"
    )
    feedforward: Literal[tuple(FEEDFORWARDS)] = "swiglu"  # type: ignore[valid-type]
    experts: NewExperts | None = Field(None, description="a width that isn't given is feedforward_width")  # type: ignore[valid-type]
    window: Size = 512
    qkv_bias: bool = False
    output_bias: bool = False
    feedforward_bias: bool = False
    norm: Literal[tuple(NORMS)] = "rms"  # type: ignore[valid-type]
    qk_norm: bool = False
    sliding_window: Size | None = Field(None, description="tokens that a token sees, itself among them; default: all")
    tied: bool = True
    mask: Literal[MASKS] = "causal"  # type: ignore[valid-type]
    norm_placement: Literal[PLACEMENTS] = "pre"  # type: ignore[valid-type]
    norm_statistics: Statistics = Statistics()  # type: ignore[valid-type]
    feedforward_norm: Literal[tuple(NORMS)] | None = None  # type: ignore[valid-type]
    embedding: NewEmbedding = NewEmbedding()  # type: ignore[valid-type]
    shared_layers: bool = False
    head: str | dict[str, Any] = Field("lm", description=f"one of {', '.join(HEAD_KINDS)}, or {{kind: ...}}")
    attention: str | dict[str, Any] = Field(
        "grouped_query", description=f"one of {', '.join(ATTENTION_KINDS)}, or {{kind: ...}}"
    )
    position: str | dict[str, Any] = Field("rope", description=f"one of {', '.join(POSITION_KINDS)}, or {{kind: ...}}")
    rope_theta: float = Field(10000.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> NewModel:
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width={self.width} is no multiple of heads={self.heads}: change one, or give head_width")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} is no multiple of kv_heads={self.kv_heads}: each serves as many heads"
            )
        if self.position != "rope" and self.rope_theta != type(self).model_fields["rope_theta"].default:
            raise ValueError(f"rope_theta={self.rope_theta} is for position=rope, not {self.position}: leave it out")
        config = self.config(vocab_size=1)
        if self.feedforward_width not in (None, config.feedforward_width):
            raise ValueError(
                f"feedforward_width={self.feedforward_width} is for layers without experts, and there are none: give "
                "experts.width alone, or name experts.dense_layers"
            )
        return self

    def config(self, vocab_size: int) -> ModelConfig:
        feedforward_width = self.feedforward_width or self._feedforward_width()
        experts = None
        if self.experts is not None:
            values = self.experts.model_dump()
            experts = ExpertOptions(**values | {"width": values["width"] or feedforward_width})
            # What no layer has should be no reason that no family of checkpoints can say it.
            feedforward_width = feedforward_width if experts.dense_layers else experts.width
        return ModelConfig(
            vocab_size=vocab_size,
            width=self.width,
            num_layers=self.layers,
            num_heads=self.heads,
            num_kv_heads=self.kv_heads or self.heads,
            head_width=self.head_width or self.width // self.heads,
            feedforward_width=feedforward_width,
            feedforward=self.feedforward,
            experts=experts,
            max_positions=self.window,
            attention=read_options(self.attention, ATTENTION_KINDS, "attention"),
            position=self._position(),
            qkv_bias=self.qkv_bias,
            output_bias=self.output_bias,
            feedforward_bias=self.feedforward_bias,
            norm=self.norm,
            qk_norm=self.qk_norm,
            sliding_window=self.sliding_window,
            tied_embeddings=self.tied,
            mask=self.mask,
            norm_placement=self.norm_placement,
            norm_statistics=options_of(self.norm_statistics, NormStatistics),
            feedforward_norm=self.feedforward_norm,
            embedding=options_of(self.embedding, EmbeddingOptions),
            shared_layers=self.shared_layers,
            head=read_options(self.head, HEAD_KINDS, "head"),
        )

    def _feedforward_width(self) -> int:
        """Gated or plain, as many numbers: 3 matrices of 8/3 of the width, or 2 of 4 times the width."""
        return 32 * math.ceil(self.width * (8 / 3 if self.feedforward in GATED else 4) / 32)

    def _position(self) -> PositionOptions:
        if self.position == "rope":
            return RopeOptions(theta=self.rope_theta)
        return read_options(self.position, POSITION_KINDS, "position")
