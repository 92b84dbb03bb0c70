"""What a training recipe may say: its sections and keys, their types, defaults and limits.

Knows names, types and which keys exclude each other. Sections of `objective`, `optimizer` and `schedule` are made from
the training room's own frozen options (`sections.py`). Leaves the model to `model_section.py`, files, overrides and the
wording of errors to `reading.py`, and what is done with a recipe to `train.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from handscroll.kernels.attention import KERNELS
from handscroll.model import ModelConfig
from handscroll.recipes.model_section import FromFolder, FromModel, NewModel, NotNegative, Share, Size
from handscroll.recipes.sections import Named, Section, named_sections
from handscroll.text.learning import HANS, scheme
from handscroll.training import OBJECTIVES, OPTIMIZERS, SCHEDULES
from handscroll.training.precision import PRECISIONS


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
