"""The loop: equal to a plain PyTorch loop, it learns, recomputation changes nothing, and what it says is true."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from handscroll.model import Transformer
from handscroll.training import (
    AdamWOptions,
    CausalLM,
    Cosine,
    Loss,
    MuonOptions,
    PackedSource,
    Progress,
    Term,
    TokenRow,
    Trainer,
    TrainOptions,
    Window,
    train,
)
from handscroll.training.progress import Clock
from handscroll.training.randomness import derive, generator, seeded

MakeModel = Callable[..., Transformer]
MakeRows = Callable[..., list[TokenRow]]


def test_equals_a_plain_loop(make_model: MakeModel, make_rows: MakeRows) -> None:
    model, plain = make_model(qkv_bias=True), make_model(qkv_bias=True)
    source = PackedSource(make_rows(*[16] * 12), window=16, windows_per_batch=4, seed=3)
    # Adam's first updates are signs, in which rounding of a k bias's zero gradient would show: a larger eps.
    adamw = AdamWOptions(2e-2, eps=1e-5, weight_decay=0.0)
    options = TrainOptions(5, optimizer=adamw, schedule=Cosine(2, 0.1), clip=0.5)
    progress = list(train({"model": model}, CausalLM(), source, options))
    settings = {"betas": (0.9, 0.95), "eps": 1e-5, "weight_decay": 0.0, "foreach": False}
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1.0, **settings)  # type: ignore[arg-type]
    for step in range(5):
        tokens = torch.from_numpy(np.stack([window[0].ids for window in source.windows(step, 0)]))
        loss = F.cross_entropy(plain(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 2e-2 * options.schedule.multiplier(step, 5)
        optimizer.step()
        assert progress[step].loss == pytest.approx(loss.item(), rel=1e-5)
        assert progress[step].grad_norm == pytest.approx(norm.item(), rel=1e-4)
        assert progress[step].learning_rate == optimizer.param_groups[0]["lr"]
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", [AdamWOptions(1e-2), MuonOptions(rest=AdamWOptions(1e-2))])
def test_learns_a_repeated_pattern(
    optimizer: AdamWOptions | MuonOptions, make_model: MakeModel, make_rows: MakeRows
) -> None:
    source = PackedSource(make_rows(*[16] * 8), window=16, windows_per_batch=4, seed=0)
    models = {"model": make_model(tied_embeddings=True)}
    losses = [p.loss for p in train(models, CausalLM(), source, TrainOptions(60, optimizer=optimizer))]
    # Logits of std 1 that know nothing: half a nat (half their variance) above an even guess.
    assert losses[0] == pytest.approx(math.log(50) + 0.5, abs=0.1)
    assert losses[-1] < 0.4 * math.log(50)


def test_accumulated_training_equals_whole_batches(make_model: MakeModel, make_rows: MakeRows) -> None:
    rows, models = make_rows(*range(3, 25)), [make_model(), make_model()]
    # Updates of plain size: Adam's first ones are signs, in which rounding of a zero gradient shows.
    options = TrainOptions(3, optimizer=AdamWOptions(1e-3, eps=1e-3))
    whole = train({"model": models[0]}, CausalLM(window=24), PackedSource(rows, 24, 8, 0), options)
    parts = train(
        {"model": models[1]}, CausalLM(window=24), PackedSource(rows, 24, 2, 0, 4), replace(options, accumulation=4)
    )
    for one, four in zip(whole, parts, strict=True):
        assert one.loss == pytest.approx(four.loss, abs=1e-6)
        assert one.tokens == four.tokens
    for mine, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_activation_checkpointing_gives_identical_gradients(make_model: MakeModel, make_rows: MakeRows) -> None:
    gradients = []
    for recompute in (False, True):
        model = make_model(qkv_bias=True)
        source = PackedSource(make_rows(9, 14, 20, 5), 24, 2, seed=0)
        trainer = Trainer({"model": model}, CausalLM(), source, TrainOptions(2, activation_checkpointing=recompute))
        trainer.accumulate(0)
        assert model.activation_checkpointing is recompute
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_progress_counts_real_tokens_and_calls_back(make_model: MakeModel, make_rows: MakeRows) -> None:
    seen: list[Progress] = []
    source = PackedSource(make_rows(5, 3, 4), window=8, windows_per_batch=2, seed=0)
    options = TrainOptions(4, schedule=Cosine(warmup=2))
    steps = list(train({"model": make_model()}, CausalLM(window=8), source, options, callbacks=[seen.append]))
    assert seen == steps
    assert [(p.step, p.steps, p.tokens) for p in steps] == [(n, 4, 12 * n) for n in range(1, 5)]
    assert all(p.terms["likelihood"] == pytest.approx(p.loss) for p in steps)
    assert all(p.tokens_per_second > 0 and p.grad_norm > 0 for p in steps)
    assert [p.seconds for p in steps] == sorted(p.seconds for p in steps)
    assert [p.eta_seconds > 0 for p in steps] == [True, True, True, False]


class Exploding(CausalLM):
    def loss(self, models: Any, batch: Any) -> Loss:
        return Loss({"likelihood": Term(models["model"].norm.weight.sum() * math.inf, 1)}, {})


def test_a_loss_that_is_not_finite_stops_before_anything_moves(
    make_model: MakeModel, make_rows: MakeRows, tmp_path: Path
) -> None:
    model, untouched = make_model(), make_model()
    steps = train({"model": model}, Exploding(), PackedSource(make_rows(8), 8, 1, 0), TrainOptions(3), tmp_path)
    with pytest.raises(ValueError, match=r"step 1: loss inf, gradient norm .* lower learning rate"):
        next(steps)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), untouched.parameters(), strict=True))
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_frozen_models_beside_the_trained_one_stay(make_model: MakeModel, make_rows: MakeRows, tmp_path: Path) -> None:
    models = {"model": make_model(), "reference": make_model(seed=5).requires_grad_(False)}
    list(train(models, CausalLM(), PackedSource(make_rows(8), 8, 1, 0), TrainOptions(2), tmp_path))
    untouched = make_model(seed=5)
    assert all(torch.equal(a, b) for a, b in zip(models["reference"].parameters(), untouched.parameters(), strict=True))


def test_the_log_has_a_line_a_step(make_model: MakeModel, make_rows: MakeRows, tmp_path: Path) -> None:
    source = PackedSource(make_rows(8, 7), 8, 1, 0)
    steps = list(train({"model": make_model()}, CausalLM(), source, TrainOptions(3), tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [Progress(**line) for line in lines] == steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"accumulation": 0}, "accumulation=0"),
        ({"checkpoint_every": -5}, "checkpoint_every=-5"),
        ({"keep": 0}, "keep=0"),
        ({"seed": -1}, "seed=-1 is negative"),
        ({"clip": -0.5}, "clip=-0.5 is negative"),
    ],
)
def test_bad_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainOptions(**{"steps": 1, **changes})


def test_source_and_options_agree_on_accumulation(make_model: MakeModel, make_rows: MakeRows) -> None:
    source = PackedSource(make_rows(8), 8, 1, 0, accumulation=2)
    with pytest.raises(ValueError, match="accumulation=4 but the source has 2"):
        train({"model": make_model()}, CausalLM(), source, TrainOptions(1, accumulation=4))


def test_randomness_is_of_seed_and_step_alone() -> None:
    before = torch.get_rng_state()
    with seeded(7, 3, device=torch.device("cpu")):
        first = torch.rand(4)
    torch.rand(9)
    with seeded(7, 3, device=torch.device("cpu")):
        assert torch.equal(torch.rand(4), first)
    torch.set_rng_state(before)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.rand(4, generator=generator(7, 3, 0)), torch.rand(4, generator=generator(7, 3, 0)))
    assert len({derive(a, b, c) for a in range(5) for b in range(5) for c in range(5)}) == 125
    assert all(0 <= derive(a) < 2**63 for a in range(50))


def test_the_wait_for_windows_is_told(make_model: MakeModel, make_rows: MakeRows) -> None:
    class Slow:
        def windows(self, step: int, micro: int) -> list[Window]:
            time.sleep(0.2)
            return [[row] for row in make_rows(16)]

    last = [*train({"model": make_model()}, CausalLM(), Slow(), TrainOptions(2, accumulation=2))][-1]
    # A wait of 0.2 s; and three more, which began while the batch before computed: less than a step's time shorter.
    assert 0.2 / last.seconds < last.waiting < 1
    clock = Clock()
    for seconds, waited in ((1.0, 0.5), (3.0, 0.5)):
        clock.tick(10, seconds, waited)
    assert clock.waiting == 0.25
    assert clock.tokens_per_second == 5


def test_an_objective_is_refused_by_a_model_that_sees_what_it_is_to_tell(
    make_model: MakeModel, make_rows: MakeRows
) -> None:
    models = {"model": make_model(mask="bidirectional")}
    with pytest.raises(ValueError, match=r"mask=bidirectional: .* use a model with mask=causal or mask=prefix"):
        Trainer(models, CausalLM(), PackedSource(make_rows(8), 8, 1, 0), TrainOptions(2))
