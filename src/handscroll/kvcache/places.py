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
    """One tensor (N, *shape) that grows along its first dimension."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype):
        self.shape, self.dtype = tuple(shape), dtype
        self.tensor = torch.empty(0, *self.shape, dtype=dtype)

    def __len__(self) -> int:
        return len(self.tensor)

    def grow(self, number: int) -> None:
        """Makes room for `number` in all, what is there stays (mutates)."""
        old, self.tensor = self.tensor, self._larger(number)
        if self.tensor.data_ptr() != old.data_ptr() and len(old) and not self._keeps:
            self.tensor[: len(old)] = old

    # Whether what was written is still there in the tensor that `_larger` gives.
    _keeps = False

    @abstractmethod
    def _larger(self, number: int) -> Tensor: ...

    def nbytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()


class MemoryRoom(Room):
    """In memory; that of the host is pinned where a GPU reads from it."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, pinned: bool = False):
        super().__init__(shape, dtype)
        self.device, self.pinned = device, pinned

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
