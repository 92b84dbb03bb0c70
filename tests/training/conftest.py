"""What the tests of this room share: a tiny model, and documents that repeat themselves so that they can be learnt."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from handscroll.model import ModelConfig, Transformer
from handscroll.model.heads import PretrainingOptions
from handscroll.model.position import Rope2dOptions
from handscroll.model.slots import EmbeddingOptions
from handscroll.text.units import Mark
from handscroll.training import GLM, OBJECTIVES, Objective, TokenRow, Vocabulary

VOCABULARY = 50
# Every other entry ends a sentence.
KNOWN = Vocabulary(VOCABULARY, {"mask": 47, "cls": 48, "sep": 49}, (0, 47, 48, 49), tuple(range(1, 47, 2)))
BLANKS = Vocabulary(VOCABULARY, {role: 45 + number for number, role in enumerate(GLM.needs.roles)})


@dataclass(frozen=True)
class Example:
    """An objective with the options that it has no defaults for, and what a model needs to be trained so."""

    options: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)


ENCODER = {"mask": "bidirectional", "head": PretrainingOptions(), "embedding": EmbeddingOptions(segments=2)}
EXAMPLES = {
    "causal_lm": Example(),
    "sft": Example(),
    "masked_lm": Example({"vocabulary": KNOWN}, ENCODER),
    "prefix_lm": Example({}, {"mask": "prefix"}),
    "glm": Example({"vocabulary": BLANKS}, {"mask": "prefix", "position": Rope2dOptions()}),
    "ernie": Example({"vocabulary": KNOWN}, ENCODER),
}


@pytest.fixture(params=OBJECTIVES)
def make_objective(request: pytest.FixtureRequest) -> Callable[..., Objective]:
    """Every objective in turn, with changed options."""

    def make(**options: Any) -> Objective:
        objective: Objective = OBJECTIVES[request.param](**{**EXAMPLES[request.param].options, **options})
        return objective

    return make


@pytest.fixture
def suited(make_objective: Callable[..., Objective]) -> Mapping[str, Any]:
    """How a model differs from `make_model`'s that the objective can train."""
    kind = type(make_objective())
    return next(EXAMPLES[name].model for name, each in OBJECTIVES.items() if each is kind)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bits are compared with those of another process: both use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_model() -> Callable[..., Transformer]:
    def make(seed: int = 1, **changes: Any) -> Transformer:
        sizes = {"vocab_size": VOCABULARY, "width": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
        inner = {"head_width": 8, "feedforward_width": 24, "max_positions": 64}
        return Transformer(ModelConfig(**{**sizes, **inner, **changes}), seed=seed)

    return make


@pytest.fixture
def make_rows() -> Callable[..., list[TokenRow]]:
    """Rows of these lengths, each a random pattern of 4 tokens over and over, alternately supervised by halves.

    Each is a conversation of a query and a response, and every third token begins a unit.
    """

    def make(*lengths: int, seed: int = 0, masked: bool = False) -> list[TokenRow]:
        rng = np.random.default_rng(seed)
        rows = [np.resize(rng.integers(1, VOCABULARY, 4), length) for length in lengths]
        return [TokenRow(ids, np.arange(len(ids)) >= len(ids) // 2 if masked else None, units(ids)) for ids in rows]

    return make


def units(ids: np.ndarray) -> np.ndarray:
    place = np.arange(len(ids))
    marks = np.where(place % 3 == 0, Mark.WORD | Mark.UNIT, Mark.WORD) | place // 3 % 3
    marks |= np.where(place >= len(ids) // 2, Mark.RESPONSE, 0)
    return (marks | np.where(place % max(1, len(ids) // 2) == 0, Mark.TURN, 0)).astype(np.uint8)
