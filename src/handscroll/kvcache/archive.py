"""Blocks in numbered places that rows, and caches forked from one another, share: who owns which, what is free again.

Leaves to `blocks.py` how a block is kept, and to the stores which tokens are in it.

Letters: N blocks, K kv heads, L tokens of a block, D head width.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from handscroll.kvcache.blocks import Blocks
from handscroll.kvcache.state import State
from handscroll.model.memory import Bytes


def nbytes(*tensors: Tensor) -> int:
    """Bytes that these tensors hold, spare capacity included."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class ArchivedBlocks:
    """Blocks of an archive, which keeps them for as long as this object lives: whoever needs them holds it."""

    def __init__(self, numbers_N: Tensor):
        self.numbers_N = numbers_N


class Archive:
    """Blocks in numbered places. A block never moves; places that nobody owns any more are used again."""

    def __init__(self, blocks: Blocks):
        self.blocks = blocks
        self.count = 0
        self.free: set[int] = set()
        self.owners_N = np.zeros(0, dtype=np.int32)

    def add(self, key_NKLD: Tensor, value_NKLD: Tensor) -> Tensor:
        """The numbers of these blocks, free places first (mutates); somebody must `own` them at once."""
        return self._add(self.blocks.encode(key_NKLD, value_NKLD))

    def adopt(self, other: Archive, tables: Sequence[Tensor]) -> list[Tensor]:
        """Another archive's tables as tables of this one, blocks copied as they are kept (mutates); see `add`."""
        used_N, places = together(tables)
        if other is self or not len(used_N):
            return list(tables)
        numbers_N = self._copy(other, used_N)
        return [numbers_N[place_N] for place_N in places]

    def state(self, numbers_N: Tensor) -> State:
        """These blocks, to be saved: whatever else is here belongs to others."""
        return {"blocks": self.blocks.state(numbers_N), "count": len(numbers_N)}

    def restore(self, state: State, device: torch.device) -> None:
        """Empty before, holds what was saved, from number 0 on (mutates); somebody must `own` all of it at once."""
        self.blocks.restore(state["blocks"], device)
        self.count = state["count"]
        self.owners_N = np.zeros_like(self.owners_N, shape=max(self.count, 64))

    def _copy(self, other: Archive, numbers_N: Tensor) -> Tensor:
        if not self.blocks.rooms:
            self.blocks.dtype, self.blocks.device = other.blocks.dtype, other.blocks.device
        return self._add([torch.cat(pieces.tensors) for pieces in other.blocks.encoded(numbers_N)])

    def _add(self, parts: Sequence[Tensor]) -> Tensor:
        again = sorted(self.free)[: len(parts[0])]
        last = self.count + len(parts[0]) - len(again)
        numbers_N = torch.tensor(again + list(range(self.count, last)))
        self.blocks.reserve(last, parts)
        self.blocks.write(numbers_N, parts)
        if last > len(self.owners_N):
            self.owners_N = np.concatenate((self.owners_N, np.zeros_like(self.owners_N, shape=max(last, 64))))
        self.free.difference_update(again)
        self.count = last
        return numbers_N

    def own(self, numbers_N: Tensor) -> ArchivedBlocks:
        """Keeps these blocks for as long as what is returned lives (mutates); others may own them as well."""
        self.owners_N[numbers_N.numpy()] += 1
        blocks = ArchivedBlocks(numbers_N)
        weakref.finalize(blocks, self._release, numbers_N).atexit = False
        return blocks

    def bytes(self) -> Bytes:
        held, owners = self.blocks.nbytes(), self.owners_N.nbytes
        return Bytes(held, owners) if self.blocks.on_device else Bytes(0, held + owners)

    def _release(self, numbers_N: Tensor) -> None:
        """One owner less (mutates). Places without any are free, those at the end are given up."""
        numbers = numbers_N.numpy()
        self.owners_N[numbers] -= 1
        self.free.update(numbers[self.owners_N[numbers] == 0].tolist())
        while self.count - 1 in self.free:
            self.count -= 1
            self.free.remove(self.count)


def together(tables: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """All numbers that the tables hold, ascending, each once; and the tables as places among these."""
    numbers_N = torch.unique(torch.cat([torch.empty(0, dtype=torch.int64), *tables]))
    return numbers_N, [torch.searchsorted(numbers_N, table_N) for table_N in tables]
