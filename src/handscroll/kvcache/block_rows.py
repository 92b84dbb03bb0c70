"""What one layer of `block_memory` holds: the slots of each row, and an archive that rows and forks share.

Lays blocks into slots, takes them back where a text is cut, and forks, joins and saves rows. Leaves reading to
`block_layer.py`, and what a row and its slots are to `block_slots.py`.

Letters: B rows, K kv heads, D head width, A attended slots, S slots, N blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from handscroll.kvcache.archive import together
from handscroll.kvcache.block_cuts import join
from handscroll.kvcache.block_slots import Buffers, Row
from handscroll.kvcache.block_store import BlockStore
from handscroll.kvcache.layered import LayerCache, PerForward
from handscroll.kvcache.state import State
from handscroll.model.memory import Bytes
from handscroll.model.position import Position, Rotation

if TYPE_CHECKING:
    from handscroll.kvcache.block_memory import BlockMemory, Sizes


class BlockRows(LayerCache):
    def __init__(
        self,
        options: BlockMemory,
        sizes: Sizes,
        position: Position,
        store: BlockStore,
        rows: int,
        shared: PerForward,
    ):
        self.options, self.sizes, self.position, self.store, self.shared = options, sizes, position, store, shared
        self.rows = [Row.empty(sizes) for _ in range(rows)]
        # A row of its tables for each slot, which is also a rotation for each distance.
        self.rotation = position.rotation(torch.arange(sizes.attended), torch.tensor(sizes.attended))
        self._buffers: Buffers | None = None

    @property
    def buffers(self) -> Buffers:
        assert self._buffers is not None, "the first tokens make the buffers"
        return self._buffers

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(row.length for row in self.rows)

    def _lay(self, row: int, chosen_KN: Tensor | None, local: slice) -> None:
        """Lays the row's slots anew: the same sinks, `chosen_KN` blocks, what stood in slots `local` (mutates)."""
        buffers, state, sizes = self.buffers, self.rows[row], self.sizes
        state.choose(chosen_KN, sizes)
        first = state.local_slot(sizes)
        last = first + local.stop - local.start
        if first != local.start:
            received_KS = buffers.received_BKA[row, :, local].clone()
            self._fill(row, first, buffers.key_BKAD[row, :, local].clone(), buffers.value_BKAD[row, :, local].clone())
            buffers.received_BKA[row, :, first:last] = received_KS
        buffers.received_BKA[row, :, last:] = 0
        if chosen_KN is not None:
            self._fill(row, sizes.sinks, *self._gather(state, chosen_KN))
            buffers.received_BKA[row, :, sizes.sinks : first] = 0

    def _gather(self, state: Row, places_KN: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (K, S, D) of a row's archived blocks, each head's own side by side."""
        key_KSD, value_KSD = self.store.gather(state.table_N[places_KN], self.buffers.device)
        if not self.sizes.by_sentence:
            return key_KSD, value_KSD
        lengths_N, block = state.lengths_of(places_KN[0]), self.sizes.block
        return join(key_KSD, lengths_N, block), join(value_KSD, lengths_N, block)

    def _fill(self, row: int, first: int, key_KSD: Tensor, value_KSD: Tensor) -> None:
        """Writes keys and values to slots from `first` on, and the keys rotated there (mutates)."""
        rotation = self._rotation_at(first, first + key_KSD.shape[1])
        self.buffers.write(row, first, key_KSD, self.position.rotate(key_KSD[None], rotation)[0], value_KSD)

    def _rotation_at(self, first: int, last: int) -> Rotation:
        return Rotation(self.rotation.cosine[first:last], self.rotation.sine[first:last])

    def trace(self, row: int) -> list[list[int]]:
        """For each kv head, the first token of every block that the row now attends to."""
        state = self.rows[row]
        starts: list[list[int]] = [] if state.chosen_KN is None else state.edges_N[state.chosen_KN].tolist()
        return starts

    def bytes(self) -> Bytes:
        held = 0 if self._buffers is None else self._buffers.nbytes()
        stored = self.store.bytes()
        return Bytes(held + stored.device, stored.host)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Never forgets what it needs: blocks come back from the store where the window moves back over them."""
        for row, length in enumerate(lengths):
            if length < self.rows[row].length:
                self._go_back(row, length)

    def _go_back(self, row: int, length: int) -> None:
        state, sizes, buffers = self.rows[row], self.sizes, self.buffers
        heads = buffers.key_BKAD.shape[1]
        kept = state.kept(length, sizes)
        local, needed = slice(state.local_slot(sizes), state.filled), max(0, length - int(state.edges_N[kept]))
        returning_N = torch.arange(kept, len(state.table_N))
        if len(returning_N):
            both = zip(
                self._gather(state, returning_N.expand(heads, -1)),
                (buffers.key_BKAD[row, :, local], buffers.value_BKAD[row, :, local]),
                strict=True,
            )
            key_KSD, value_KSD = (torch.cat(pair, dim=1)[:, :needed] for pair in both)
            self._fill(row, sizes.sinks, key_KSD, value_KSD)
            buffers.received_BKA[row, :, sizes.sinks :] = 0
            local = slice(sizes.sinks, sizes.sinks + needed)
        state.go_back(length, kept)
        recent_KN = state.latest(sizes).expand(heads, -1) if kept else None
        self._lay(row, recent_KN, slice(local.start, local.start + needed))

    def select(self, rows: Sequence[int], shared: PerForward) -> Self:
        chosen = copy(self)
        chosen.shared, chosen.rows = shared, [self.rows[row].fork() for row in rows]
        if self._buffers is not None:
            index_B = torch.tensor(list(rows), dtype=torch.int64, device=self._buffers.device)
            chosen._buffers = self._buffers.select(index_B)
        return chosen

    def join(self, other: Self, shared: PerForward) -> Self:
        # Where only the other has read, its rotation is on the device.
        joined = copy(self if self._buffers is not None else other)
        joined.shared, joined.store = shared, self.store
        tables = self.store.adopt(other.store, [row.table_N for row in other.rows])
        moved = [row.moved(table_N, self.store) for row, table_N in zip(other.rows, tables, strict=True)]
        joined.rows = [row.fork() for row in self.rows] + moved
        filled = self._buffers or other._buffers
        if filled is not None:
            ours = self._buffers or filled.blank(len(self.rows))
            joined._buffers = ours.join(other._buffers or filled.blank(len(other.rows)))
        return joined

    def state(self) -> State:
        numbers_N, tables = together([row.table_N for row in self.rows])
        return {
            "store": self.store.state(numbers_N),
            "tables": tables,
            "rows": [row.state() for row in self.rows],
            "buffers": None if self._buffers is None else vars(self._buffers),
        }

    def restore(self, state: State, device: torch.device) -> None:
        self.store.restore(state["store"], device)
        pairs = zip(state["rows"], state["tables"], strict=True)
        self.rows = [Row.restored(row, device).moved(table_N, self.store) for row, table_N in pairs]
        if state["buffers"] is not None:
            self._buffers = Buffers(**{name: buffer.to(device) for name, buffer in state["buffers"].items()})
            self.rotation = Rotation(*(table.to(device) for table in self.rotation))
