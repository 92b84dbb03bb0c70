"""What of a cache is saved: plain values and tensors by name, and the one file that they become.

The file is safetensors (https://huggingface.co/docs/safetensors), with the plain values as JSON in its metadata: it is
read without unpickling, and its tensors are mapped, so that what nobody looks at is never read. It is written here and
not by the library, as an archive may lie in two pieces and is too large to be laid side by side first.

Knows nothing of caches; which state belongs to which model is `memory_file.py`'s business.
"""

from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# Names to plain JSON values, tensors, `Pieces`, and lists and states of these.
State = dict[str, Any]

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {str(dtype): dtype for dtype in NAMES}
# Under this name the plain values stand in the file's metadata; in them, a tensor is {TENSOR: its name}.
PLAIN, TENSOR = "handscroll", "$tensor"
# Parts of a tensor, along its first dimension, that are written at a time.
WRITTEN = 64


class Pieces(NamedTuple):
    """Tensors that follow one another along their first dimension: saved, and read, as one."""

    tensors: list[Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(map(len, self.tensors)), *self.tensors[0].shape[1:])


def write_state(path: Path, state: State) -> None:
    """Writes the file under a temporary name, through to the disk, and renames it: it is there whole, or as before."""
    tensors: dict[str, Pieces] = {}
    header: dict[str, Any] = {"__metadata__": {PLAIN: json.dumps(_split(state, "", tensors))}}
    # Wide numbers first: each tensor then begins at a multiple of its numbers' width, as mapping asks for.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].tensors[0].dtype.itemsize)
    end = 0
    for name, pieces in ordered:
        dtype = pieces.tensors[0].dtype
        begin, end = end, end + prod(pieces.shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": pieces.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for _, pieces in ordered:
                for tensor in pieces.tensors:
                    for part in torch.split(tensor, WRITTEN):
                        file.write(part.contiguous().cpu().view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_state(path: Path) -> State:
    """The state of a file; its tensors are mapped, and writing to them leaves the file as it is.

    Raises ValueError for a file that is damaged, or that `write_state` hasn't written.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: give a memory that `handscroll read` has saved")
    try:
        with safe_open(path, framework="pt") as file:
            plain = (file.metadata() or {}).get(PLAIN)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a memory, or it is damaged or cut short ({error}): read the text again"
        ) from error
    if plain is None:
        raise ValueError(f"{path} is not a memory but another safetensors file: give one that `handscroll read` saved")
    state = _joined(json.loads(plain), tensors)
    assert isinstance(state, dict)
    return state


def _split(value: Any, name: str, tensors: dict[str, Pieces]) -> Any:
    """The value as JSON takes it; its tensors go to `tensors` (mutates)."""
    if isinstance(value, Tensor):
        value = Pieces([value])
    if isinstance(value, Pieces):
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, dict):
        return {key: _split(item, f"{name}.{key}" if name else key, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{name}.{number}", tensors) for number, item in enumerate(value)]
    return value


def _joined(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_split`."""
    if isinstance(value, dict):
        if TENSOR in value:
            return tensors[value[TENSOR]]
        return {key: _joined(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_joined(item, tensors) for item in value]
    return value
