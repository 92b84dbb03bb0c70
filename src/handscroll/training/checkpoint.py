"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint is a folder `step-000120` of `model.safetensors` (all models), `optimizer.safetensors` and `state.json`. It
is written under a temporary name, flushed to the disk and then renamed, so that a folder of that name is always whole.
Nothing is pickled. What a run *is* (options, objective, source, model configs) is in the state; a resumed run that is
described differently is refused, for its result would be neither run's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from handscroll.model import Transformer
from handscroll.training.evaluation import Standing
from handscroll.training.log import WAY_OUT
from handscroll.training.optimizers import Optimizers

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class RunState:
    """Where a run stands: steps and real tokens done, seconds spent, and what run it is (JSON values only).

    `standing` is how its evaluations went, `scaler` the state of float16's loss scale.
    """

    step: int
    tokens: int
    seconds: float
    run: Mapping[str, Any]
    standing: Standing = field(default_factory=Standing)
    scaler: Mapping[str, Any] = field(default_factory=dict)


def describe(value: Any) -> Any:
    """Options as JSON values; a dataclass carries its class name under "kind", for a changed kind is a changed run."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__} | {f.name: describe(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def save(folder: Path, models: Mapping[str, Transformer], optimizers: Optimizers, state: RunState, keep: int) -> Path:
    """Writes `folder/step-NNNNNN` atomically and returns its path.

    Then deletes all but the newest `keep` (at least 1) and the one that evaluated best. Raises ValueError where there
    is no room for it; earlier ones stay.
    """
    path = folder / _name(state.step)
    temporary = folder / f".{path.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write(temporary, models, optimizers, state)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} can't be written: {error}. {WAY_OUT}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(folder)[: -max(1, keep)]:
        if _step(old) != state.standing.step:
            shutil.rmtree(old)
    return path


def _write(folder: Path, models: Mapping[str, Transformer], optimizers: Optimizers, state: RunState) -> None:
    for name, tensors in ((MODEL, _weights(models)), (OPTIMIZER, optimizers.state())):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    (folder / STATE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
    for name in (MODEL, OPTIMIZER, STATE):
        _flush(folder / name)
    _flush(folder)


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)]
    whole = [path for path in found if all((path / name).is_file() for name in (MODEL, OPTIMIZER, STATE))]
    return sorted(whole, key=_step)


def load_best(folder: Path, models: Mapping[str, Transformer]) -> int | None:
    """Puts the weights of the checkpoint that evaluated best into the models (mutates); its step, None without one."""
    found = checkpoints(folder)
    best = Standing(**_read_state(found[-1]).get("standing", {})).step if found else 0
    if not best:
        return None
    path = folder / _name(best)
    _put(path, models, _read_tensors(path / MODEL))
    return best


def load(path: Path, models: Mapping[str, Transformer], optimizers: Optimizers, run: Mapping[str, Any]) -> RunState:
    """Restores models and optimizers (mutates) and says where the run stands.

    Raises ValueError for files that can't be read, for a run described otherwise than `run` (naming the key), and for
    tensors that don't fit.
    """
    values, weights, moments = _read_state(path), _read_tensors(path / MODEL), _read_tensors(path / OPTIMIZER)
    _compare(path, _flat(values["run"]), _flat(run))
    _put(path, models, weights)
    optimizers.load(moments)
    return RunState(**values | {"standing": Standing(**values.get("standing", {}))})


def _read_state(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
        missing = {"step", "tokens", "seconds", "run"} - values.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise _unreadable(path, error) from error
    if missing:
        raise _unreadable(path, f"{STATE} has no {min(missing)}")
    return values


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise _unreadable(file.parent, error) from error


def _unreadable(path: Path, reason: object) -> ValueError:
    return ValueError(f"{path} can't be read ({reason}): delete this folder to resume from the checkpoint before it")


def _put(path: Path, models: Mapping[str, Transformer], weights: Mapping[str, Tensor]) -> None:
    own = _weights(models)
    if own.keys() != weights.keys() or any(own[name].shape != weights[name].shape for name in own):
        odd = sorted(name for name in own.keys() | weights.keys() if _shape(own, name) != _shape(weights, name))
        raise ValueError(f"{path}: {odd[0]} is {_shape(weights, odd[0])} there and {_shape(own, odd[0])} here")
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _weights(models: Mapping[str, Transformer]) -> dict[str, Tensor]:
    """The live tensors of the models that are trained; frozen references come back from where they came."""
    return {
        f"{model_name}.{name}": tensor
        for model_name, model in models.items()
        if any(parameter.requires_grad for parameter in model.parameters())
        for name, tensor in model.state_dict().items()
    }


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(tensors[name].shape) if name in tensors else "missing"


def _compare(path: Path, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    # Another objective explains all its other differences, so it is named first.
    for key in sorted(saved.keys() | given.keys(), key=lambda key: (key != "objective.kind", key)):
        old, new = saved.get(key, "nothing"), given.get(key, "nothing")
        if old != new:
            raise ValueError(
                f"{key} was {old!r} when {path} was written and is {new!r} now: a resumed run must be the same run; "
                f"give {key}={old!r}, or start anew in another folder"
            )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, so that a difference can be named."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _flush(path: Path) -> None:
    """To the disk itself: without it a power cut may keep the rename and lose the bytes."""
    if path.is_dir() and os.name != "posix":
        return  # other systems can't open a folder
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
