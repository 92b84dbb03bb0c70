"""Running statistics of norms over steps: taken in once a step, whatever is recomputed, evaluated or resumed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from handscroll.model import Transformer
from handscroll.model.config import RUNNING_NORMS
from handscroll.model.slots import NormStatistics
from handscroll.training import (
    AdamWOptions,
    CausalLM,
    Evaluation,
    Loss,
    PackedSource,
    Term,
    TokenRow,
    Trainer,
    TrainOptions,
    checkpoint,
    parallel,
    train,
)

MakeModel = Callable[..., Transformer]
MakeRows = Callable[..., list[TokenRow]]
# The second half of the run is past the warm-up.
STATISTICS = NormStatistics(momentum=0.2, warmup=3)
# Updates of plain size: Adam's first ones are signs, in which rounding of a zero gradient shows.
ADAMW = AdamWOptions(1e-3, eps=1e-3)


def norms(name: str) -> dict[str, Any]:
    return {"norm": name, "feedforward_norm": name, "norm_statistics": STATISTICS, "norm_placement": "sandwich"}


def statistics(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "norm" in name}


@pytest.mark.parametrize("name", RUNNING_NORMS)
@pytest.mark.parametrize("shared", [False, True])
def test_recomputation_counts_nothing_twice(
    name: str, shared: bool, make_model: MakeModel, make_rows: MakeRows
) -> None:
    models = [make_model(**norms(name), shared_layers=shared) for _ in range(2)]
    start = statistics(models[0])
    for model, recompute in zip(models, (False, True), strict=True):
        options = TrainOptions(6, activation_checkpointing=recompute, accumulation=2, optimizer=ADAMW)
        source = PackedSource(make_rows(9, 14, 20, 5, 17), 24, 1, 0, accumulation=2)
        list(train({"model": model}, CausalLM(), source, options))
    for (key, plain), recomputed in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        assert torch.equal(plain, recomputed), key
    for key, buffer in statistics(models[0]).items():
        assert not torch.equal(buffer, start[key]), key
        assert not key.endswith("steps") or buffer.item() == 6


@pytest.mark.parametrize("name", RUNNING_NORMS)
def test_evaluation_changes_no_statistics(name: str, make_model: MakeModel, make_rows: MakeRows) -> None:
    rows = make_rows(16, 12)
    trainer = Trainer({"model": make_model(**norms(name))}, CausalLM(), PackedSource(rows, 16, 2, 0), TrainOptions(4))
    trainer.step(0)
    before = statistics(trainer.models["model"])
    first = trainer.evaluate([[[row]] for row in rows])
    trainer.accumulate(1)
    assert trainer.evaluate([[[row]] for row in rows]) == first
    for key, buffer in statistics(trainer.models["model"]).items():
        assert torch.equal(buffer, before[key])


def test_power_norm_in_micro_batches_is_one_batch(make_model: MakeModel, make_rows: MakeRows) -> None:
    """Its running gradient is in another unit, but as every step has equally many tokens nothing else differs."""
    rows, models = (
        make_rows(*[12] * 8),
        [make_model(**norms("power") | {"norm_statistics": NormStatistics(0.2, 0)}) for _ in range(2)],
    )
    whole = train({"model": models[0]}, CausalLM(), PackedSource(rows, 12, 4, 0), TrainOptions(4, optimizer=ADAMW))
    parts = train(
        {"model": models[1]},
        CausalLM(),
        PackedSource(rows, 12, 2, 0, 2),
        TrainOptions(4, accumulation=2, optimizer=ADAMW),
    )
    for one, two in zip(whole, parts, strict=True):
        assert one.loss == pytest.approx(two.loss, abs=1e-5)
    own, other = (model.state_dict() for model in models)
    # A step differentiates the sum over 4 * 11 targets where there are several micro batches.
    for key in own:
        scale = 44 if key.endswith("gradient_mean") else 1
        torch.testing.assert_close(own[key] * scale, other[key], rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", RUNNING_NORMS)
def test_resumed_equals_uninterrupted(name: str, make_model: MakeModel, make_rows: MakeRows, tmp_path: Path) -> None:
    rows = make_rows(9, 14, 20, 5, 17)

    def run(folder: Path, resume: bool = False) -> Any:
        source = PackedSource(rows, 24, 1, 0, accumulation=2)
        evaluation = Evaluation([[[rows[0]]]], every=2)
        options = TrainOptions(8, accumulation=2, checkpoint_every=5, activation_checkpointing=True)
        return train(
            {"model": make_model(**norms(name))},
            CausalLM(),
            source,
            options,
            folder,
            resume=resume,
            evaluation=evaluation,
        )

    for folder, steps in ((tmp_path / "whole", 8), (tmp_path / "stopped", 6)):
        list(itertools.islice(run(folder), steps))
    resumed = list(run(tmp_path / "stopped", resume=True))
    assert [progress.step for progress in resumed] in ([6, 7, 8], [7, 8])
    for file in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        files = [tmp_path / run / "step-000008" / file for run in ("whole", "stopped")]
        assert files[0].read_bytes() == files[1].read_bytes()


class HandedOver(Exception):
    pass


def hand_over(value: Any) -> None:
    raise HandedOver(value)


@pytest.mark.parametrize("name", RUNNING_NORMS)
def test_every_process_takes_in_all_batches(
    name: str, make_model: MakeModel, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes played one after the other: each hands over its statistics, then gets those of both."""
    rows, options = make_rows(9, 14, 20, 5, 17), TrainOptions(2, accumulation=4)

    def trainer() -> Trainer:
        source = PackedSource(rows, 24, 1, 0, accumulation=4)
        return Trainer({"model": make_model(**norms(name))}, CausalLM(), source, options)

    alone = trainer()
    alone.accumulate(0)
    alone.statistics.apply()
    halves, handed = [trainer(), trainer()], []
    for half, micro_batches in zip(halves, (range(2), range(2, 4)), strict=True):
        half.micro_batches = micro_batches
        half.accumulate(0)
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "size", lambda: 2)
        patch.setattr(parallel, "gather", hand_over)
        for half in halves:
            with pytest.raises(HandedOver) as caught:
                half.statistics.apply()
            handed.append(caught.value.args[0])
        patch.setattr(parallel, "gather", lambda value: handed)
        for half in halves:
            half.statistics.apply()
            for key, buffer in statistics(half.models["model"]).items():
                assert torch.equal(buffer, statistics(alone.models["model"])[key]), key


class TwoTerms(CausalLM):
    def loss(self, models: Any, batch: Any) -> Loss:
        loss = super().loss(models, batch)
        return loss._replace(terms={**loss.terms, "other": Term(loss.terms["likelihood"].sum * 2, 1)})


def test_where_a_running_gradient_has_no_unit_it_is_refused(make_model: MakeModel, make_rows: MakeRows) -> None:
    models, rows = {"model": make_model(norm="power")}, make_rows(9, 14)
    trainer = Trainer(models, TwoTerms(), PackedSource(rows, 24, 1, 0, 2), TrainOptions(2, accumulation=2))
    with pytest.raises(ValueError, match=r"micro_batches=2 and a loss of several terms \(likelihood, other\)"):
        trainer.step(0)
    Trainer(models, TwoTerms(), PackedSource(rows, 24, 1, 0), TrainOptions(2)).step(0)


def test_a_loss_that_is_scaled_is_refused(make_model: MakeModel) -> None:
    from handscroll.training.statistics import StepStatistics

    with pytest.raises(ValueError, match="precision='float16' scales the loss"):
        StepStatistics({"model": make_model(norm="power")}, 1, "float16")
    StepStatistics({"model": make_model(norm="batch")}, 1, "float16")
