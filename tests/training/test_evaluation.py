"""Evaluation while training: it disturbs nothing, equals a plain mean, keeps the best checkpoint, and stops in time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from handscroll.model import Transformer
from handscroll.training import CausalLM, Constant, Evaluation, PackedSource, Progress, TokenRow, TrainOptions, train
from handscroll.training.checkpoint import checkpoints, load_best
from handscroll.training.optimizers import AdamWOptions

MakeModel = Callable[..., Transformer]
MakeRows = Callable[..., list[TokenRow]]
DROPOUT = {"attention_dropout": 0.1, "residual_dropout": 0.2, "embedding_dropout": 0.1}


@pytest.fixture
def run(make_model: MakeModel, make_rows: MakeRows) -> Callable[..., list[Progress]]:
    """Trains a fresh tiny model that drops, on rows which the evaluation's have nothing in common with."""

    def start(folder: Path | None = None, stop: int | None = None, model: Any = None, **changes: Any) -> list[Progress]:
        rate, keep = changes.pop("rate", 0.01), changes.pop("keep", 2)
        options = TrainOptions(
            12, seed=4, checkpoint_every=5, keep=keep, schedule=Constant(), optimizer=AdamWOptions(learning_rate=rate)
        )
        source = PackedSource(make_rows(12, 9, 16), 16, 2, seed=1)
        models = {"model": model or make_model(qkv_bias=True, **DROPOUT)}
        steps = train(models, CausalLM(), source, options, folder, **changes)
        done = [next(steps) for _ in range(stop)] if stop is not None else list(steps)
        steps.close()
        return done

    return start


@pytest.fixture
def unseen(make_rows: MakeRows) -> list[list[list[TokenRow]]]:
    """Batches of two windows and of one: of uneven counts."""
    rows = make_rows(16, 9, 5, seed=7)
    return [[[rows[0]], [rows[1]]], [[rows[2]]]]


def test_it_disturbs_nothing(run: Callable[..., list[Progress]], unseen: Any) -> None:
    plain = [progress.loss for progress in run()]
    assert [progress.loss for progress in run(evaluation=Evaluation(unseen, every=2))] == plain


def test_it_is_the_mean_over_all_tokens_without_dropout(
    run: Callable[..., list[Progress]], make_model: MakeModel, unseen: Any
) -> None:
    model = make_model(qkv_bias=True, **DROPOUT)
    evaluated = run(model=model, evaluation=Evaluation(unseen, every=100))[-1].evaluation
    assert evaluated is not None
    assert evaluated.step == 12
    assert not model.training
    logits = [(model(torch.tensor(row.ids)[None])[0, :-1], torch.tensor(row.ids)[1:]) for b in unseen for [row] in b]
    losses = torch.cat([F.cross_entropy(*each, reduction="none") for each in logits])
    assert evaluated.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert evaluated.perplexity == pytest.approx(losses.mean().exp().item(), rel=1e-5)


def test_the_best_stays_beside_the_last(
    run: Callable[..., list[Progress]], make_model: MakeModel, unseen: Any, tmp_path: Path
) -> None:
    """What is learnt is not what is evaluated, so that the evaluation soon gets worse."""
    evaluation = Evaluation(unseen, every=1)
    steps = run(tmp_path / "whole", evaluation=evaluation, rate=0.03, keep=1)
    losses = [progress.evaluation.loss for progress in steps if progress.evaluation is not None]
    best = losses.index(min(losses)) + 1
    assert best < 10
    kept = [path.name for path in checkpoints(tmp_path / "whole")]
    assert kept == [f"step-{best:06d}", "step-000012"]
    model = make_model(seed=9, qkv_bias=True, **DROPOUT)
    assert load_best(tmp_path / "whole", {"model": model}) == best
    other = make_model(qkv_bias=True, **DROPOUT)
    run(model=other, stop=best, rate=0.03)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    # Stopped after the best and resumed, the run knows it still, and ends with the same log.
    folder = tmp_path / "stopped"
    run(folder, stop=best + 1, evaluation=evaluation, rate=0.03, keep=1)
    run(folder, resume=True, evaluation=evaluation, rate=0.03, keep=1)
    assert [path.name for path in checkpoints(folder)] == kept
    logs = [(path / "log.jsonl").read_text().splitlines() for path in (folder, tmp_path / "whole")]
    assert [[json.loads(line)[key] for line in logs[0] for key in ("loss", "evaluation")]] == [
        [json.loads(line)[key] for line in logs[1] for key in ("loss", "evaluation")]
    ]


def test_patience_ends_a_run_for_good(run: Callable[..., list[Progress]], unseen: Any, tmp_path: Path) -> None:
    options = {"evaluation": Evaluation(unseen, every=1, patience=2), "rate": 0.03}
    steps = run(tmp_path, **options)
    losses = [progress.evaluation.loss for progress in steps if progress.evaluation is not None]
    assert len(losses) == len(steps) < 12
    assert min(losses) < min(losses[-2:])
    assert min(losses) == losses[-3]
    assert checkpoints(tmp_path)[-1].name == f"step-{len(steps):06d}"
    assert run(tmp_path, resume=True, **options) == []
    with pytest.raises(ValueError, match=r"evaluation\.patience was 2 .* and is 3 now"):
        run(tmp_path, resume=True, evaluation=Evaluation(unseen, every=1, patience=3), rate=0.03)


@pytest.mark.parametrize("changes", [{"every": 0}, {"patience": 0}, {"batches": []}])
def test_bad_options(changes: dict[str, Any], unseen: Any) -> None:
    with pytest.raises(ValueError, match="at least"):
        Evaluation(**{"batches": unseen, **changes})
