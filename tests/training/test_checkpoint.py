"""Checkpoints: whole or absent, restored to the bit, refused by another run, and what is said about broken ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from handscroll.model import Transformer
from handscroll.training import (
    OPTIMIZERS,
    SFT,
    AdamWOptions,
    CausalLM,
    Constant,
    Cosine,
    MuonOptions,
    PackedSource,
    Progress,
    TokenRow,
    TrainOptions,
    checkpoint,
    train,
)
from handscroll.training.optimizers import Optimizers

MakeModel = Callable[..., Transformer]
MakeRows = Callable[..., list[TokenRow]]
OPTIONS = TrainOptions(6, seed=4, checkpoint_every=2, keep=2, schedule=Cosine(1))


@pytest.fixture
def run(make_model: MakeModel, make_rows: MakeRows) -> Callable[..., list[Any]]:
    """Trains a fresh tiny model in a folder and returns its progress."""

    def start(folder: Path, options: TrainOptions = OPTIONS, stop: int | None = None, **changes: Any) -> list[Any]:
        models = {"model": make_model(qkv_bias=True)}
        objective = changes.pop("objective", CausalLM())
        source = changes.pop("source", PackedSource(make_rows(12, 9, 16, masked=True), 16, 2, seed=1))
        steps = train(changes.pop("models", models), objective, source, options, folder, **changes)
        done = [next(steps) for _ in range(stop)] if stop is not None else list(steps)
        steps.close()
        return done

    return start


def test_layout_on_disk(run: Callable[..., list[Any]], tmp_path: Path) -> None:
    run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "step-000004", "step-000006"]
    files = ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert sorted(path.name for path in (tmp_path / "step-000006").iterdir()) == files
    state = json.loads((tmp_path / "step-000006" / "state.json").read_text())
    assert (state["step"], state["run"]["options"]["schedule"]) == (6, {"kind": "Cosine", "warmup": 1, "final": 0.1})


@pytest.mark.parametrize("optimizer", [kind(learning_rate=0.01) for kind in OPTIMIZERS.values()], ids=OPTIMIZERS)
def test_round_trip_to_the_bit(optimizer: AdamWOptions | MuonOptions, make_model: MakeModel, tmp_path: Path) -> None:
    models, others = {"model": make_model(), "critic": make_model(2)}, {"model": make_model(3), "critic": make_model(4)}
    optimizers, restored = Optimizers(models, optimizer), Optimizers(others, optimizer)
    for parameter in optimizers.parameters.values():
        parameter.grad = torch.randn_like(parameter)
    optimizers.step(1.0)
    run = {"options": checkpoint.describe(optimizer)}
    path = checkpoint.save(tmp_path, models, optimizers, checkpoint.RunState(1, 99, 1.5, run), keep=1)
    assert checkpoint.load(path, others, restored, run) == checkpoint.RunState(1, 99, 1.5, run)
    for name, model in models.items():
        assert all(torch.equal(t, others[name].state_dict()[key]) for key, t in model.state_dict().items())
    assert optimizers.state().keys() == restored.state().keys()
    assert all(torch.equal(tensor, restored.state()[name]) for name, tensor in optimizers.state().items())


def test_a_disk_without_room_leaves_the_last_checkpoint(run: Callable[..., list[Any]], tmp_path: Path) -> None:
    """The system refuses to let any file grow past 8 kB, as a full disk would."""
    resource = pytest.importorskip("resource")
    run(tmp_path / "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress: Progress) -> None:
        if progress.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))

    try:
        with pytest.raises(ValueError, match=r"step-000004 can't be written: .*: make room and resume the run"):
            run(tmp_path / "broken", callbacks=[fill])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "broken").iterdir() if path.is_dir()] == ["step-000002"]
    resumed = run(tmp_path / "broken", resume=True)
    assert [p.step for p in resumed] == [3, 4, 5, 6]
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        one, other = ((tmp_path / folder / "step-000006" / name).read_bytes() for folder in ("whole", "broken"))
        assert one == other


def test_resuming_the_finished_does_nothing(run: Callable[..., list[Any]], tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, resume=True) == []


def test_resuming_nothing_starts_anew(run: Callable[..., list[Any]], tmp_path: Path) -> None:
    assert len(run(tmp_path / "new", resume=True)) == 6
    run(tmp_path / "early", stop=1)
    assert [p.step for p in run(tmp_path / "early", resume=True)] == [1, 2, 3, 4, 5, 6]
    assert len((tmp_path / "early" / "log.jsonl").read_text().splitlines()) == 6


def test_a_folder_that_cannot_be_made_is_refused_at_once(run: Callable[..., list[Any]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        run(tmp_path / "file" / "run", stop=0)


def test_a_used_folder_is_not_overwritten(run: Callable[..., list[Any]], tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match=r"already holds a run \(step-000006\): resume it, or give another folder"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (replace(OPTIONS, steps=8), r"options\.steps was 6 .* and is 8 now"),
        (replace(OPTIONS, seed=5), r"options\.seed was 4"),
        (replace(OPTIONS, clip=0.0), r"options\.clip was 1\.0"),
        (replace(OPTIONS, schedule=Cosine(2)), r"options\.schedule\.warmup was 1"),
        (replace(OPTIONS, schedule=Constant(1)), r"options\.schedule\.final was 0\.1 .* is 'nothing' now"),
        (replace(OPTIONS, optimizer=MuonOptions()), r"options\.optimizer\.beta1 was 0\.9"),
    ],
)
def test_changed_options_are_refused_by_name(
    run: Callable[..., list[Any]], tmp_path: Path, options: TrainOptions, message: str
) -> None:
    run(tmp_path, stop=2)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, options, resume=True)


def test_changed_data_objective_or_model_is_refused(
    run: Callable[..., list[Any]], make_model: MakeModel, make_rows: MakeRows, tmp_path: Path
) -> None:
    run(tmp_path, stop=2)
    with pytest.raises(ValueError, match="source was"):
        run(tmp_path, resume=True, source=PackedSource(make_rows(12, 9), 16, 2, seed=1))
    with pytest.raises(ValueError, match=r"objective\.kind was 'CausalLM'"):
        run(tmp_path, resume=True, objective=SFT())
    with pytest.raises(ValueError, match=r"models\.model\.width was 16"):
        run(tmp_path, resume=True, models={"model": make_model(qkv_bias=True, width=32)})


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.STATE])
def test_truncated_files_are_named(run: Callable[..., list[Any]], tmp_path: Path, name: str) -> None:
    run(tmp_path, stop=4)
    file = tmp_path / "step-000004" / name
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"step-000004 can't be read .* delete this folder to resume from the"):
        run(tmp_path, resume=True)
    file.unlink()
    # A folder that lacks a file is no checkpoint: the one before it serves.
    assert [p.step for p in run(tmp_path, resume=True)] == [3, 4, 5, 6]


def test_tensors_that_do_not_fit_are_named(make_model: MakeModel, tmp_path: Path) -> None:
    models = {"model": make_model()}
    optimizers = Optimizers(models, AdamWOptions())
    path = checkpoint.save(tmp_path, models, optimizers, checkpoint.RunState(1, 1, 1.0, {}), keep=1)
    wider = {"model": make_model(feedforward_width=32)}
    message = r"layers\.0\.feedforward\.down\.weight is \(16, 24\) there and \(16, 32\) here"
    with pytest.raises(ValueError, match=message):
        checkpoint.load(path, wider, Optimizers(wider, AdamWOptions()), {})
