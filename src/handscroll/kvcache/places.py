"""Where tensors of an archive live: on the device, in the host's memory, or in a file that is mapped into memory.

Knows bytes only. What is written there is `blocks.py`'s business.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor


def lasting() -> torch.inference_mode:
    """Where tensors are made that outlive a forward: those made in inference mode can't be written to outside of it."""
    return torch.inference_mode(mode=False)


class Room(ABC):
    """One tensor (N, *shape) that grows along its first dimension.

    `front` is what a saved memory began with: it stays mapped where it was saved, and what is new goes behind it.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype):
        self.shape, self.dtype = tuple(shape), dtype
        self.front = self.tensor = torch.empty(0, *self.shape, dtype=dtype)

    def __len__(self) -> int:
        return len(self.front) + len(self.tensor)

    def grow(self, number: int) -> None:
        """Makes room for `number` in all, what is there stays (mutates)."""
        old, self.tensor = self.tensor, self._larger(number - len(self.front))
        if self.tensor.data_ptr() != old.data_ptr() and len(old) and not self._keeps:
            self.tensor[: len(old)] = old

    def begin(self, saved: Tensor) -> None:
        """An empty room holds what was saved (mutates), without reading it."""
        self.front = saved

    def read(self, index: slice | tuple[Tensor, ...]) -> Tensor:
        """What stands at numbers `first` to `last`, or at numbers and places in the next dimension, broadcast."""
        split = len(self.front)
        if isinstance(index, slice):
            parts = self.pieces(index.start, index.stop)
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        numbers, *rest = index
        if not split:
            return self.tensor[index]
        is_new = numbers >= split
        if not is_new.any():
            return self.front[index]
        old, new = self.front[(numbers.clamp(max=split - 1), *rest)], self.tensor[((numbers - split).clamp(0), *rest)]
        return torch.where(is_new.view(*is_new.shape, *[1] * (old.dim() - is_new.dim())), new, old)

    def pieces(self, first: int, last: int) -> list[Tensor]:
        """What stands at numbers `first` to `last`, in one piece or two that lie apart."""
        split = len(self.front)
        parts = [self.front[first:last], self.tensor[max(0, first - split) : max(0, last - split)]]
        return [part for part in parts if len(part)] or parts[:1]

    def write(self, numbers_N: Tensor, part: Tensor) -> None:
        """Puts these at their numbers (mutates), what is mapped in a copy of its page: the saved file stays."""
        part, is_old_N = part.to(self.tensor.device), numbers_N < len(self.front)
        if is_old_N.any():
            self.front[numbers_N[is_old_N]] = part[is_old_N]
            numbers_N, part = numbers_N[~is_old_N], part[~is_old_N]
        self.tensor[(numbers_N - len(self.front)).to(self.tensor.device)] = part

    # Whether what was written is still there in the tensor that `_larger` gives.
    _keeps = False

    @abstractmethod
    def _larger(self, number: int) -> Tensor: ...

    def nbytes(self) -> int:
        return len(self) * prod(self.shape) * self.dtype.itemsize


class MemoryRoom(Room):
    """In memory; that of the host is pinned where a GPU reads from it."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, pinned: bool = False):
        super().__init__(shape, dtype)
        self.device, self.pinned = device, pinned
        self.front = self.tensor = self.tensor.to(device)

    def begin(self, saved: Tensor) -> None:
        """On a CPU, saved tensors stay mapped; a GPU's, and those that one reads from, are read at once (mutates)."""
        if self.device.type == "cpu" and not self.pinned:
            self.front = saved
        elif len(saved):
            self.grow(len(saved))
            self.tensor.copy_(saved)

    def _larger(self, number: int) -> Tensor:
        with lasting():
            return torch.empty(number, *self.shape, dtype=self.dtype, device=self.device, pin_memory=self.pinned)


class FileRoom(Room):
    """In a file without a name, mapped into memory: it ends with the process, however that ends.

    The system keeps in memory what is read often, and takes it back when memory is short.
    """

    _keeps = True

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, folder: Path | None):
        super().__init__(shape, dtype)
        with tempfile.TemporaryFile(dir=folder) as file:
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def _larger(self, number: int) -> Tensor:
        size = number * prod(self.shape) * self.dtype.itemsize
        os.ftruncate(self._descriptor, size)
        mapped = mmap.mmap(self._descriptor, size)
        with lasting():
            return torch.frombuffer(mapped, dtype=self.dtype).view(number, *self.shape)


PLACES = ("device", "host", "file")


@dataclass(frozen=True)
class Place:
    """`folder`: where a file is made; None: where the system keeps temporary files."""

    name: str = "device"
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.name not in PLACES:
            raise ValueError(f"unknown place {self.name!r}: known are {', '.join(PLACES)}")
        if self.folder is not None and not Path(self.folder).is_dir():
            raise ValueError(f"folder={self.folder!r} is no folder: make it, or name one that exists")

    def room(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Room:
        if self.name == "file":
            return FileRoom(shape, dtype, None if self.folder is None else Path(self.folder))
        if self.name == "device":
            return MemoryRoom(shape, dtype, device)
        return MemoryRoom(shape, dtype, torch.device("cpu"), pinned=device.type == "cuda")
