"""What a training recipe may say: its sections and keys, their types, defaults and limits.

Knows names, types and which keys exclude each other. Sections of `objective`, `optimizer` and `schedule` are made from
the training room's own frozen options (`sections.py`). Leaves files, overrides and the wording of errors
to `reading.py`, and what is done with a recipe to `train.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from handscroll.kernels.attention import KERNELS
from handscroll.model import ModelConfig, RopeOptions
from handscroll.model.attention import ATTENTION_KINDS
from handscroll.model.config import MASKS, PLACEMENTS, EmbeddingOptions, NormStatistics, PositionOptions
from handscroll.model.feedforward import FEEDFORWARDS, GATED
from handscroll.model.heads import HEAD_KINDS
from handscroll.model.norm import NORMS
from handscroll.model.options import read_options
from handscroll.model.position import POSITION_KINDS
from handscroll.model.routing import ExpertOptions
from handscroll.model.sharing import POOLINGS, shared_config
from handscroll.model.stretching import METHODS, stretch
from handscroll.recipes.sections import Named, Section, named_sections, options_of, section_of
from handscroll.text.learning import HANS, scheme
from handscroll.training import OBJECTIVES, OPTIMIZERS, SCHEDULES
from handscroll.training.precision import PRECISIONS

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


class NewTokenizer(Section):
    """A vocabulary that is learnt from the recipe's own data; `kind` and `han` as in `Tokenizer.train`.

    WordPiece doesn't give every text back: white space becomes single spaces, and rare characters are unknown.
    """

    vocab_size: Size = 2048
    kind: Literal["bpe", "wordpiece"] = "bpe"
    han: Literal["merged", "isolated", "jieba"] = "merged"

    @model_validator(mode="before")
    @classmethod
    def _han_of_kind(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "han" not in value and value.get("kind") in HANS:
            return {**value, "han": HANS[value["kind"]][0]}
        return value

    @model_validator(mode="after")
    def _allowed(self) -> NewTokenizer:
        scheme(self.kind, self.han, self.vocab_size, ())
        return self


def _several(value: Any) -> Any:
    if value == []:
        raise ValueError("no file is named: give at least one")
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Files = Annotated[tuple[str, ...], BeforeValidator(_several)]


class Part(Section):
    """A part of a mixture: of all windows that are drawn its share is `weight`, divided by the sum of weights."""

    files: Files
    weight: float = Field(1.0, gt=0)


class Data(Section):
    """Files, and folders of them, or a mixture of such parts; a path is relative to where the command is run.

    What is evaluated on is `eval`, files of its own, or the share `held_out` of each part's tokens.
    """

    files: Files | None = None
    mix: Annotated[tuple[Part, ...], Field(min_length=1)] | None = None
    skip_bad: bool = False
    eval: Files | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Data:
        if (self.files is None) == (self.mix is None):
            given = "neither is" if self.files is None else "both are"
            raise ValueError(f"{given} given: say files, or mix, a list of parts with files and weight")
        if self.eval is not None and self.held_out is not None:
            raise ValueError(f"eval={list(self.eval)} and held_out={self.held_out}: give one of them")
        return self

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.mix if self.mix is not None else (Part(files=self.files or (), weight=1.0),)


class SkipPositions(Section):
    """Short windows that stand as if they were `to` tokens long (PoSE, arXiv 2309.10400)."""

    to: Size
    chunks: Annotated[int, Field(ge=2)] = 2


class Dropout(Section):
    """Shares that are dropped while training: of attention weights, of what each half of a layer adds, of embeddings.

    Default: the model's own, which is none for a new one.
    """

    attention: Share | None = None
    residual: Share | None = None
    embedding: Share | None = None

    def applied(self, config: ModelConfig) -> ModelConfig:
        given = {f"{name}_dropout": share for name, share in self.model_dump(exclude_none=True).items()}
        return replace(config, **given)


class Evaluation(Section):
    """How often to evaluate, in steps, and after how many evaluations without a better one to stop (null: never)."""

    every: Size = 100
    patience: Size | None = None


class Training(Section):
    """How long, in what portions, where, and what is kept.

    A step is `windows_per_step` windows of `window` tokens.
    """

    steps: Size | None = None
    epochs: float | None = Field(None, gt=0)
    windows_per_step: Size = 16
    micro_batches: Size = 1
    window: Annotated[int, Field(ge=2)] | None = Field(None, description="default: the model's window")
    skip_positions: SkipPositions | None = None
    clip: float = Field(1.0, ge=0)
    seed: NotNegative = 0
    checkpoint_every: Size = 100
    keep: Size = 2
    activation_checkpointing: bool = False
    attention_kernel: Literal[KERNELS] = Field("fused", description="what computes attention")  # type: ignore[valid-type]
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal[tuple(PRECISIONS)] | None = Field(  # type: ignore[valid-type]
        None, description="default: bfloat16 on a GPU that has it, else float16 there; float32 on a CPU"
    )
    dropout: Dropout = Field(default_factory=Dropout)
    tensorboard: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.steps is None and self.epochs is None:
            raise ValueError("steps is missing: say how long to train, by steps or by epochs")
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps={self.steps} and epochs={self.epochs}: give one of them, and null for the other")
        if self.windows_per_step % self.micro_batches:
            raise ValueError(
                f"windows_per_step={self.windows_per_step} can't be divided into micro_batches={self.micro_batches} "
                "equal parts: make it a multiple"
            )
        return self


# The tokenizer says how a batch is padded and which tokens hide others, and `train` how long it is.
OBJECTIVE_SECTIONS = named_sections(OBJECTIVES, without=("pad_id", "window", "chunk", "vocabulary"))
OPTIMIZER_SECTIONS = named_sections(OPTIMIZERS)
SCHEDULE_SECTIONS = named_sections(SCHEDULES)

# The kinds of each section that has several, by the tag that pydantic puts into the place of an error.
VARIANTS: Mapping[str, Mapping[str, type[Section]]] = {
    "model": {"from": FromModel, "sizes": NewModel},
    "tokenizer": {"from": FromFolder, "new": NewTokenizer},
    "objective": OBJECTIVE_SECTIONS,
    "optimizer": OPTIMIZER_SECTIONS,
    "schedule": SCHEDULE_SECTIONS,
}


def _choice(section: str, tag: Callable[[Mapping[str, Any]], str]) -> Any:
    """The union of a section's kinds; `tag` says which one is meant."""

    def chosen(value: Any) -> str | None:
        if isinstance(value, Section):
            return next((name for name, kind in VARIANTS[section].items() if type(value) is kind), None)
        return tag(value) if isinstance(value, Mapping) else None

    kinds = tuple(Annotated[kind, Tag(name)] for name, kind in VARIANTS[section].items())
    return Annotated[Union[kinds], Discriminator(chosen)]  # noqa: UP007 - the kinds are known only now


if TYPE_CHECKING:
    ModelSection = FromModel | NewModel
    TokenizerSection = FromFolder | NewTokenizer
    ObjectiveSection = Named
    OptimizerSection = Named
    ScheduleSection = Named
else:
    ModelSection = _choice("model", lambda value: "from" if "from" in value else "sizes")
    TokenizerSection = _choice("tokenizer", lambda value: "from" if "from" in value else "new")
    ObjectiveSection = _choice("objective", lambda value: str(value.get("name", "causal_lm")))
    OptimizerSection = _choice("optimizer", lambda value: str(value.get("name", "adamw")))
    ScheduleSection = _choice("schedule", lambda value: str(value.get("name", "cosine")))


class Recipe(Section):
    """One training run, from files to a model's folder. `out` is the folder of everything that it writes."""

    model: ModelSection
    tokenizer: TokenizerSection | None = Field(None, description="default: the model's own, or a new one")
    data: Data
    objective: ObjectiveSection = Field(default_factory=lambda: OBJECTIVE_SECTIONS["causal_lm"](name="causal_lm"))
    optimizer: OptimizerSection = Field(default_factory=lambda: OPTIMIZER_SECTIONS["adamw"](name="adamw"))
    schedule: ScheduleSection = Field(default_factory=lambda: SCHEDULE_SECTIONS["cosine"](name="cosine"))
    train: Training
    evaluation: Evaluation | None = Field(
        None, description="default: every 100 steps where there is what to evaluate on"
    )
    out: str = Field(min_length=1)

    @model_validator(mode="after")
    def _can_evaluate(self) -> Recipe:
        if self.evaluation is not None and self.data.eval is None and self.data.held_out is None:
            raise ValueError(
                "evaluation has nothing to evaluate on: give data.eval, files, or data.held_out, a share such as 0.01"
            )
        return self
