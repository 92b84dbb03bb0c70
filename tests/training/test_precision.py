"""Mixed precision: close to float32, updates in float32, and float16's loss scale that finds its place and resumes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from handscroll.model import Transformer
from handscroll.training import CausalLM, PackedSource, TokenRow, Trainer, TrainOptions, precision, train
from handscroll.training.precision import check_precision, default_precision

MakeModel = Callable[..., Transformer]
MakeRows = Callable[..., list[TokenRow]]
CPU = torch.device("cpu")


@pytest.fixture
def half_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 as on a GPU: PyTorch's autocast and loss scale are the same on a CPU, only slow."""
    monkeypatch.setattr("handscroll.training.trainer.check_precision", lambda name, device: None)


@pytest.fixture
def make_trainer(make_model: MakeModel, make_rows: MakeRows) -> Callable[..., Trainer]:
    def make(name: str, accumulation: int = 2, **sizes: Any) -> Trainer:
        source = PackedSource(make_rows(12, 9, 16), 16, 2, seed=1, accumulation=accumulation)
        options = TrainOptions(6, accumulation=accumulation, precision=name)
        return Trainer({"model": make_model(**sizes)}, CausalLM(), source, options)

    return make


@pytest.mark.usefixtures("half_on_cpu")
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("name", "tolerance"), [("bfloat16", 0.03), ("float16", 0.005)])
def test_gradients_are_those_of_float32_but_for_rounding(
    name: str, tolerance: float, accumulation: int, make_trainer: Callable[..., Trainer]
) -> None:
    exact, mixed = make_trainer("float32", accumulation), make_trainer(name, accumulation)
    if name == "float16":
        mixed.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    losses = [trainer.accumulate(0)[0].loss for trainer in (exact, mixed)]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=tolerance)
    norms = [trainer.clip() for trainer in (exact, mixed)]
    assert norms[1] == pytest.approx(norms[0], rel=tolerance)
    for own, other in zip(mixed.parameters, exact.parameters, strict=True):
        assert own.dtype == own.grad.dtype == torch.float32
        assert (own.grad - other.grad).norm() <= tolerance * max(other.grad.norm(), 0.05 * norms[0])


@pytest.mark.usefixtures("half_on_cpu")
def test_a_step_that_overflows_is_skipped_and_the_scale_halved(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("float16")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    update = trainer.step(0)
    assert (update.grad_norm, trainer.scaler.get_scale()) == (0.0, 2.0**39)
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.parameters, strict=True))
    for step in range(1, 40):
        if (update := trainer.step(step)).grad_norm:
            break
    # Small enough for the sums of a micro batch to be differentiated in float16, and no smaller.
    assert 2.0**4 < trainer.scaler.get_scale() < 2.0**20
    assert not any(torch.equal(old, new) for old, new in zip(before, trainer.parameters, strict=True))


@pytest.mark.usefixtures("half_on_cpu")
def test_a_gradient_that_no_scale_saves_is_an_error(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("float16")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=precision.SMALLEST_SCALE)
    with pytest.raises(ValueError, match=r"step 1: loss 1\.0, gradient norm inf"):
        trainer.check(0, 1.0, math.inf)


@pytest.mark.usefixtures("half_on_cpu")
def test_the_scale_is_resumed(make_model: MakeModel, make_rows: MakeRows, tmp_path: Path) -> None:
    """Sums of two micro batches overflow at the first scales: which steps are skipped decides all that follows."""

    def run(folder: Path, stop: int = 12, resume: bool = False) -> list[tuple[float, float]]:
        source = PackedSource(make_rows(12, 9, 16), 16, 2, seed=1, accumulation=2)
        options = TrainOptions(12, accumulation=2, precision="float16", checkpoint_every=4)
        steps = train({"model": make_model()}, CausalLM(), source, options, folder, resume=resume)
        done = [(progress.loss, progress.grad_norm) for progress, _ in zip(steps, range(stop), strict=False)]
        steps.close()
        return done

    whole = run(tmp_path / "whole")
    assert 0.0 in [norm for _, norm in whole[:4]]
    run(tmp_path / "stopped", stop=6)
    assert run(tmp_path / "stopped", resume=True) == whole[4:]


def test_names_and_devices() -> None:
    assert default_precision(CPU) == "float32"
    with pytest.raises(ValueError, match="precision=fp8 is unknown; known are float32, bfloat16, float16"):
        check_precision("fp8", CPU)
    with pytest.raises(ValueError, match=r"precision=float16 needs a GPU: .* give float32 or bfloat16"):
        check_precision("float16", CPU)
    check_precision("float16", torch.device("cuda"))
