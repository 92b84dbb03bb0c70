"""The contract between the trainer and what it trains towards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from handscroll.model import ModelConfig, Told, Transformer
from handscroll.model.heads import head_name
from handscroll.model.slots import VocabularyOptions
from handscroll.training.batch import Batch, TokenRow, Window

# The key "model" is the one that is trained; references, teachers and critics stand beside it under their own names.
Models = Mapping[str, Transformer]


class Term(NamedTuple):
    """One part of a loss: a sum with its graph, what it is to be divided by, and its weight in the total.

    Sum and count stay apart because only the trainer knows all of an accumulated batch: means of means would weigh a
    token by how many others happen to share its micro batch.
    """

    sum: Tensor
    count: Tensor | int  # type: ignore[assignment]  # shadows tuple.count
    weight: float = 1.0


class Share(NamedTuple):
    """A number that is only logged: how many of how many, added up over micro batches before it is divided."""

    some: int
    all: int


class Loss(NamedTuple):
    """Terms that are differentiated, and numbers that are only logged: shares, or means of micro batches.

    `told`: by the name of a model that is trained, what its modules told in the forwards behind the terms
    (`Hidden.aux`); norms with running statistics have them from there.
    """

    terms: Mapping[str, Term]
    metrics: Mapping[str, float | Share]
    told: Mapping[str, Sequence[Told]] = MappingProxyType({})


class Needs(NamedTuple):
    """What an objective asks of tokenizer, model and packing: its class says it, whatever its options are.

    `roles`: control tokens that it puts into texts (`text/roles.py`); with any of them it has a field `vocabulary`.
    `masks`: the model's masks that it can train. `axes`: how many positions it tells each token.
    `room`: tokens that it adds to each row, at most, for which windows are packed with room; of such an objective rows
    come bare, without the tokenizer's own opening and end.
    `is_bounded`: how much it adds it decides within a window of fixed size, its field `window`.
    `is_shifted`: a place tells the token after it; else the one that stands, or is hidden, at the place itself.
    `units`: rows come with theirs. `models`: `prepare` computes with the models' weights, so that no batch is made
    before the last step has moved them; else it looks at their configs alone, and another thread may run it.
    """

    roles: tuple[str, ...] = ()
    masks: tuple[str, ...] = ("causal", "prefix")
    axes: int = 1
    room: int = 0
    is_bounded: bool = False
    is_shifted: bool = True
    units: bool = False
    models: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenLoss:
    """Options of every objective that learns the next token.

    `label_smoothing` spreads so much of each target over the vocabulary; `z_loss` is the weight of log^2 of the
    softmax's sum, which keeps logits from drifting (1e-4 in PaLM). The loss holds both; the metric "nll" neither.
    """

    needs: ClassVar[Needs] = Needs()

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing}: a part of each target, 0 or more and below 1")
        if not 0 <= self.z_loss < math.inf:
            raise ValueError(f"z_loss={self.z_loss}: a weight, 0 or more, such as 1e-4")

    def text_window(self, window: int) -> int:
        """How many tokens of rows, `room` beside each, a source may put into a window of so many."""
        return window


class Objective(Protocol):
    """What to learn from rows. Methods do not mutate the objective; randomness comes from `rng` alone."""

    @property
    def needs(self) -> Needs:
        """Of its class."""

    def prepare(self, models: Models, rows: Sequence[TokenRow], rng: torch.Generator) -> Sequence[TokenRow]:
        """The rows as they will be trained on, called once for each window's rows before they are collated.

        Checks rows and adds what must be computed first (rollouts, reference log-probabilities). May return them as
        they are. Raises ValueError for rows that nothing can be learnt from.
        """

    def make_batch(self, windows: Sequence[Window], rng: torch.Generator) -> Batch:
        """Windows collated, with what is supervised decided. Raises ValueError where nothing is."""

    def loss(self, models: Models, batch: Batch) -> Loss:
        """Sums and counts of one micro batch; the trainer divides."""


def text_window(objective: Objective, window: int) -> int:
    """That of the objective; the whole window of one that adds no more than its `room`."""
    return objective.text_window(window) if isinstance(objective, TokenLoss) else window


TWO_AXES = "rope_2d or learned_2d"
# Why a mask can't be trained so, by the mask.
WHY = {
    "bidirectional": "this model's tokens see what comes after them: they would see what they are to predict",
    "causal": "this model's tokens see only what comes before them, and what is hidden is to be told from both sides",
    "prefix": "this model's tokens see both sides in a prefix alone, and what is hidden is to be told from both sides",
}
# Above this share of a row's places the last layer is as fast for all of them.
MOST_PLACES = 0.5


def check_model(objective: Objective, config: ModelConfig) -> None:
    """ValueError for a model whose mask or head the objective can't train."""
    if not isinstance(config.head, VocabularyOptions):
        raise ValueError(
            f"head={head_name(config.head)} tells no tokens, and tokens are what is to be learnt: use head=lm, or "
            "another one over the vocabulary"
        )
    if config.mask not in objective.needs.masks:
        allowed = " or ".join(f"mask={mask}" for mask in objective.needs.masks)
        raise ValueError(f"mask={config.mask}: {WHY[config.mask]}; use a model with {allowed}, or another objective")
    if config.position.axes < objective.needs.axes:
        raise ValueError(
            f"this objective tells each token {objective.needs.axes} positions, and the model's, "
            f"{type(config.position).__name__}, look at {config.position.axes}: use position: {TWO_AXES}, or another "
            "objective"
        )


def told_places(is_told_BT: Tensor) -> Tensor | None:
    """(B, Q): the places of each row that tell something; of rows with fewer than others some further ones, too.

    None where most of the fullest row tell something: then leaving places out saves less than it costs.
    """
    most = int(is_told_BT.sum(1).max())
    if most > MOST_PLACES * is_told_BT.shape[1]:
        return None
    # A stable sort of booleans: those that tell something first, each kind in its order.
    return is_told_BT.sort(dim=1, descending=True, stable=True).indices[:, :most]
