"""Weights files of a Hugging Face folder: safetensors, whole or in shards, and PyTorch's older pickles.

Knows names, tensors and files; what the tensors mean is `checkpoint.py`'s. Pickles are read with PyTorch's restricted
unpickler (`weights_only=True`), which runs no code; they are never written.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

# Where weights may be, the first that exists is read; an index names the shards of a model that is split over files.
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CANDIDATES = (SINGLE, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
SHARD_BYTES = 5_000_000_000
# As the header of a safetensors file names them.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class MissingCheckpoint(FileNotFoundError, ValueError):
    """A folder, or a file that must be in it, isn't there."""


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, as the file has it, on the host. Safetensors are mapped: read when they are touched.

    Raises MissingCheckpoint for a folder without weights or without one of its shards, ValueError for a damaged file.
    """
    return _read_all(folder, _read_file)


def read_shapes(folder: Path) -> dict[str, Tensor]:
    """The same tensors without their numbers, on the meta device: only the files' headers are read. Raises alike."""
    return _read_all(folder, _read_header)


def _read_all(folder: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that `read` finds in each file."""
    path = next((folder / name for name in CANDIDATES if (folder / name).is_file()), None)
    if path is None:
        raise MissingCheckpoint(f"{folder} holds no weights: expected one of {', '.join(CANDIDATES)}")
    if path.suffix != ".json":
        return read(path)
    shards = _read_index(path)
    missing = sorted(name for name in set(shards.values()) if not (folder / name).is_file())
    if missing:
        raise MissingCheckpoint(f"{folder} lacks shards that {path.name} names: {listed(missing)}: download them again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(shards.values())):
        tensors.update(read(folder / name))
    lost = sorted(set(shards) - set(tensors))
    if lost:
        raise ValueError(f"{path} names tensors that its shards don't hold: {listed(lost)}: download the folder again")
    return tensors


def write_weights(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> None:
    """Writes model.safetensors, or shards of at most `shard_bytes` and their index where one file would be larger."""
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor.detach().contiguous()
        filled += tensor.nbytes
    if len(shards) == 1:
        _write_file(folder / SINGLE, shards[0])
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file_name, shard)
        places |= dict.fromkeys(shard, file_name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})


def stale_weights(folder: Path, written: set[str]) -> list[Path]:
    """Safetensors of an earlier model in `folder` that would be read before the `written` files, or lie idle there."""
    index = folder / INDEX
    try:
        shards = set(_read_index(index).values()) if index.is_file() else set()
    except ValueError:  # a damaged index is itself what has to go
        shards = set()
    return [folder / name for name in sorted({SINGLE, INDEX} | shards) if name not in written]


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes one JSON object, through to the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path) -> dict[str, object]:
    """Reads one JSON object. ValueError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def listed(names: list[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _read_header(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return {name: tensor.to("meta") for name, tensor in _read_file(path, mmap=True).items()}
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return {
            name: torch.empty(part.get_shape(), dtype=_dtype_of(path, part.get_dtype()), device="meta")
            for name, part in slices.items()
        }


def _dtype_of(path: Path, name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"{path} holds numbers of type {name}; known: {', '.join(DTYPES)}")
    return DTYPES[name]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): it is damaged or cut short; download it again"
        ) from error


def _read_file(path: Path, mmap: bool = False) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    try:
        # Older pickles are no archives, and can't be mapped.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} can't be read as plain tensors: it is damaged, or holds code, which is never run; "
            "download it again, or the folder's safetensors instead"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path} is not a dictionary of tensors: expected a model's state_dict")
    return dict(tensors)


def _read_index(path: Path) -> dict[str, str]:
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{path} has no weight_map: it must say which shard holds which tensor; download it again")
    outside = sorted(str(name) for name in set(map(str, shards.values())) if Path(name).name != name)
    if outside:
        raise ValueError(f"{path} names shards outside its folder: {listed(outside)}")
    return shards


def _write_file(path: Path, tensors: dict[str, Tensor]) -> None:
    # transformers refuses a file that doesn't say which framework its tensors are for.
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())
