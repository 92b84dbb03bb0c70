"""A store that keeps the archived blocks used most recently on the device, beside all of them in host memory.

Adds to `BlockStore`: consecutive selections choose much the same blocks, and what was fetched once need not be copied
again. InfLLM (arXiv 2402.04617) manages its units of GPU memory in this manner; here the least recently used block
makes room. Each kv head has slots of its own, since each may read other blocks. Where device and host are the same
memory there is nothing to save, and blocks come straight from the archive.

Letters: N blocks, M blocks that have to be fetched, C slots, K kv heads, L tokens of a block, R representatives,
D head width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.kvcache.archive import nbytes
from handscroll.kvcache.block_index import BlockIndex
from handscroll.kvcache.block_store import BlockStore
from handscroll.kvcache.blocks import Blocks
from handscroll.kvcache.places import lasting
from handscroll.model.memory import Bytes


class LruCounts(NamedTuple):
    """Blocks of single kv heads that were on the device when they were wanted, that were not, that made room."""

    hits: int
    misses: int
    evictions: int


class RecentBlocks:
    """Which blocks stand in the slots of one kv head, the least recently used first."""

    def __init__(self, slots: int):
        self.slot_of: OrderedDict[int, int] = OrderedDict()
        self.free = list(range(slots))
        self.hits = self.misses = self.evictions = 0

    def use(self, numbers: Sequence[int]) -> list[int]:
        """Gives all of these blocks a slot (mutates); returns those whose slot has yet to be filled."""
        # What is used now is made the latest first, so that no block of `numbers` makes room for another.
        missing = []
        for number in numbers:
            if number in self.slot_of:
                self.slot_of.move_to_end(number)
            else:
                missing.append(number)
        self.hits += len(numbers) - len(missing)
        self.misses += len(missing)
        for number in missing:
            if not self.free:
                self.free.append(self.slot_of.popitem(last=False)[1])
                self.evictions += 1
            self.slot_of[number] = self.free.pop()
        return missing

    def forget(self, number: int) -> None:
        """This block is another one now (mutates)."""
        if number in self.slot_of:
            self.free.append(self.slot_of.pop(number))


class LruBlockStore(BlockStore):
    """A `BlockStore` with `slots` blocks of every kv head on the device."""

    def __init__(self, slots: int, blocks: Blocks | None = None, index: BlockIndex | None = None):
        super().__init__(blocks, index)
        self.slots = slots
        self.recent: list[RecentBlocks] = []
        self.recent_key_KCLD: Tensor | None = None
        self.recent_value_KCLD: Tensor | None = None

    @property
    def counts(self) -> LruCounts:
        return LruCounts(
            sum(head.hits for head in self.recent),
            sum(head.misses for head in self.recent),
            sum(head.evictions for head in self.recent),
        )

    def gather(self, numbers_KN: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values (K, N * L, D) on `device`; what isn't there yet is fetched, and stays (mutates)."""
        heads, wanted = numbers_KN.shape
        if wanted > self.slots or not is_apart(device):
            return super().gather(numbers_KN, device)
        self.recent = self.recent or [RecentBlocks(self.slots) for _ in range(heads)]
        numbers = numbers_KN.tolist()
        missing = [head.use(own) for head, own in zip(self.recent, numbers, strict=True)]
        if any(missing):
            self._fetch(missing, numbers, device)
        assert self.recent_key_KCLD is not None and self.recent_value_KCLD is not None
        slots_KN, head_K1 = self._slots(numbers, device), torch.arange(heads, device=device)[:, None]
        return (
            self.recent_key_KCLD[head_K1, slots_KN].flatten(1, 2),
            self.recent_value_KCLD[head_K1, slots_KN].flatten(1, 2),
        )

    def bytes(self) -> Bytes:
        held = (blocks for blocks in (self.recent_key_KCLD, self.recent_value_KCLD) if blocks is not None)
        device, host = super().bytes()
        return Bytes(device + nbytes(*held), host)

    def _represent(self, numbers_N: Tensor, representative_KNRD: Tensor) -> None:
        super()._represent(numbers_N, representative_KNRD)
        for number in numbers_N.tolist():
            for head in self.recent:
                head.forget(number)

    def _fetch(self, missing: Sequence[list[int]], numbers: Sequence[list[int]], device: torch.device) -> None:
        """Copies each head's missing blocks to their slots (mutates)."""
        most = max(map(len, missing))
        # A head that lacks fewer than another fetches one of its blocks again: one copy serves all heads.
        fetched = [lacks + own[:1] * (most - len(lacks)) for lacks, own in zip(missing, numbers, strict=True)]
        key_KSD, value_KSD = super().gather(torch.tensor(fetched), device)
        heads, _, width = key_KSD.shape
        key_KMLD, value_KMLD = (part_KSD.view(heads, most, -1, width) for part_KSD in (key_KSD, value_KSD))
        if self.recent_key_KCLD is None or self.recent_value_KCLD is None:
            with lasting():
                self.recent_key_KCLD = key_KMLD.new_empty(heads, self.slots, *key_KMLD.shape[2:])
                self.recent_value_KCLD = torch.empty_like(self.recent_key_KCLD)
        slots_KM, head_K1 = self._slots(fetched, device), torch.arange(len(fetched), device=device)[:, None]
        self.recent_key_KCLD[head_K1, slots_KM] = key_KMLD
        self.recent_value_KCLD[head_K1, slots_KM] = value_KMLD

    def _slots(self, numbers: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        """(K, N): where each head's blocks stand."""
        slots = [[head.slot_of[number] for number in own] for head, own in zip(self.recent, numbers, strict=True)]
        return torch.tensor(slots, device=device)


def is_apart(device: torch.device) -> bool:
    """Whether this device has a memory of its own."""
    return device.type != "cpu"
