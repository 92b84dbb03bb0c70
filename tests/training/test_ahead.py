"""Batches made while the step before computes: in time, in order, and nothing of it stays behind."""

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

from handscroll.model import Transformer
from handscroll.training import CausalLM, Models, Needs, PackedSource, TokenRow, TrainOptions, Window, train
from handscroll.training.ahead import Ahead

MakeModel = Callable[..., Transformer]
MakeRows = Callable[..., list[TokenRow]]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


class Watched:
    """Serves another source's windows; notes by which thread, and fails at a step."""

    def __init__(self, source: PackedSource, fails_at: int | None = None):
        self.source, self.fails_at = source, fails_at
        self.asked: list[tuple[int, int, bool]] = []

    def windows(self, step: int, micro: int) -> Sequence[Window]:
        self.asked.append((step, micro, threading.current_thread() is threading.main_thread()))
        if step == self.fails_at:
            raise ValueError(f"step {step} has no text")
        return self.source.windows(step, micro)


def first_weight(model: Transformer) -> float:
    return float(next(model.parameters()).detach().sum())


def run(model: Transformer, source: Watched, accumulation: int = 1) -> Iterator[float]:
    options = TrainOptions(4, accumulation=accumulation)
    return (progress.loss for progress in train({"model": model}, CausalLM(), source, options))


def test_each_batch_is_made_once_while_the_one_before_it_computes(make_model: MakeModel, make_rows: MakeRows) -> None:
    source = PackedSource(make_rows(*[16] * 12), 16, 2, seed=0, accumulation=2)
    ahead, now = Watched(source), Watched(source)
    with pytest.MonkeyPatch.context() as patch:
        losses = list(run(make_model(), ahead, accumulation=2))
        patch.setattr(Ahead, "begin", lambda *given: None)
        assert list(run(make_model(), now, accumulation=2)) == losses
    places = [(step, micro) for step in range(4) for micro in range(2)]
    assert ahead.asked == [(*place, place == (0, 0)) for place in places]
    assert now.asked == [(*place, True) for place in places]
    assert threads() == []


def test_what_goes_wrong_is_raised_at_its_step(make_model: MakeModel, make_rows: MakeRows) -> None:
    losses = run(make_model(), Watched(PackedSource(make_rows(*[16] * 12), 16, 2, seed=0), fails_at=2))
    assert next(losses) and next(losses)
    with pytest.raises(ValueError, match="step 2 has no text") as error:
        next(losses)
    assert "in windows" in "".join(traceback.format_tb(error.tb))


def test_a_caller_who_leaves_leaves_no_thread(make_model: MakeModel, make_rows: MakeRows) -> None:
    def interrupted(progress: object) -> None:
        raise KeyboardInterrupt

    source = PackedSource(make_rows(*[16] * 12), 16, 2, seed=0)
    steps = train({"model": make_model()}, CausalLM(), source, TrainOptions(4))
    next(steps)
    assert len(threads()) == 1
    del steps
    assert threads() == []
    with pytest.raises(KeyboardInterrupt):
        next(train({"model": make_model()}, CausalLM(), source, TrainOptions(4), callbacks=[interrupted]))
    assert threads() == []


@dataclass(frozen=True)
class Asking(CausalLM):
    """Prepares rows with what the model is then."""

    needs: ClassVar[Needs] = Needs(models=True)
    seen: list[float] = field(default_factory=list)

    def prepare(self, models: Models, rows: Sequence[TokenRow], rng: torch.Generator) -> Sequence[TokenRow]:
        self.seen.append(first_weight(models["model"]))
        return rows


def test_what_asks_the_model_waits_for_the_step_before(make_model: MakeModel, make_rows: MakeRows) -> None:
    model, objective = make_model(), Asking()
    weights = [first_weight(model)]
    source = PackedSource(make_rows(*[16] * 12), 16, 1, seed=0)
    for _ in train({"model": model}, objective, source, TrainOptions(3)):
        weights.append(first_weight(model))
    assert objective.seen == weights[:3]
    assert len(set(weights)) == 4


def test_what_is_not_taken_is_left() -> None:
    made: list[tuple[int, int]] = []

    def make(step: int, micro: int) -> tuple[int, int]:
        made.append((step, micro))
        return step, micro

    ahead: Ahead[tuple[int, int]] = Ahead()
    ahead.begin(make, 1, 0)
    assert ahead.take(make, 5, 0) == (5, 0)
    assert made == [(1, 0), (5, 0)]
