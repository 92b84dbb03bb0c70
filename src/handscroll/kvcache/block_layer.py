"""One layer of `block_memory`: reads tile by tile, decodes token by token, archives, looks up.

Windows depend on absolute tiles of the text, never on the caller's chunks: a token sees `window` tokens before its tile
(rounded to a block), and its tile up to itself. Selection does depend on chunks: blocks are chosen for a
forward's first tile and then once per `reselect_reading` tokens, by a tile's last queries, and for the forward's last
tile, on which the next token rests, by as many of its last queries as a tile has.

Letters: B rows, T tokens, H heads, K kv heads, D head width, A attended slots, S slots, N blocks, L tokens of a block,
R representatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor

from handscroll.kvcache.archive import together
from handscroll.kvcache.block_selection import add_claims
from handscroll.kvcache.block_slots import Buffers, Row
from handscroll.kvcache.layered import LayerCache, PerForward, attend
from handscroll.kvcache.representatives import REPRESENTATIVES
from handscroll.kvcache.state import State
from handscroll.kvcache.store import BlockStore
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position, Rotation

if TYPE_CHECKING:
    from handscroll.kvcache.block_memory import BlockMemory, Sizes

# Queries of a tile that choose blocks for the `reselect_reading` tokens that follow.
READING_QUERIES = 2


class Piece(NamedTuple):
    """What one row's tokens in `span` of a chunk read: (H, T, D); weights (H, T, S) where somebody wants them."""

    span: slice
    out_HTD: Tensor
    weights_HTS: Tensor | None


class BlockLayer(LayerCache):
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
        self.represent = REPRESENTATIVES[options.representative]
        self.needs_weights = options.representative == "attended"
        self.rows = [Row() for _ in range(rows)]
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

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        assert asking is None, "queries choose blocks: all of them ask"
        assert layout.starts == self.lengths and layout.lengths is not None, "rows continue where the cache ends"
        if self._buffers is None:
            self._buffers = Buffers.empty(key_BKTD, self.sizes.attended)
            self.rotation = Rotation(*(table.to(key_BKTD.device) for table in self.rotation))
        if query_BHTD.shape[2] == 1 and min(layout.lengths) == 1:
            return self._decode(query_BHTD, key_BKTD, value_BKTD, layout)
        out_BHTD = torch.zeros_like(query_BHTD)
        weights_BHTA = None
        if layout.capture.weights:
            weights_BHTA = query_BHTD.new_zeros(*query_BHTD.shape[:3], self.sizes.attended)
        for row, length in enumerate(layout.lengths):
            pieces = self._read(
                row, query_BHTD[row, :, :length], key_BKTD[row, :, :length], value_BKTD[row, :, :length], layout
            )
            for span, out_HTD, weights_HTS in pieces:
                out_BHTD[row, :, span] = out_HTD
                if weights_BHTA is not None and weights_HTS is not None:
                    weights_BHTA[row, :, span, : weights_HTS.shape[-1]] = weights_HTS
        return Attended(out_BHTD, weights_BHTA)

    def _read(self, row: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, layout: Layout) -> Iterator[Piece]:
        """Reads one row's tokens tile by tile (mutates)."""
        state, sizes, length = self.rows[row], self.sizes, query_HTD.shape[1]
        offset = 0
        if length:
            state.pending = []
        while offset < length:
            span = slice(offset, min(length, offset + sizes.tile - state.length % sizes.tile))
            self._archive(row)
            if span.stop == length:
                self._select([row], query_HTD[None, :, max(0, length - sizes.tile) :], anew=True)
            elif offset == 0 or state.length - state.selected_at >= self.options.reselect_reading:
                self._select([row], query_HTD[None, :, span][:, :, -READING_QUERIES:], anew=True)
            attended = self._attend_tile(row, query_HTD[:, span], key_KTD[:, span], value_KTD[:, span], layout)
            yield Piece(span, *attended)
            offset = span.stop

    def _attend_tile(
        self, row: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor | None]:
        """Appends tokens within one tile and attends causally to all slots in use (mutates)."""
        state, buffers = self.rows[row], self.buffers
        first = state.filled(self.sizes)
        state.length += query_HTD.shape[1]
        last = state.filled(self.sizes)
        self._fill(row, first, key_KTD, value_KTD)
        out_1HTD, weights_1HTS = attend(
            self.position.rotate(query_HTD[None], self._rotation_at(first, last)),
            buffers.rotated_BKAD[row : row + 1, :, :last],
            buffers.value_BKAD[row : row + 1, :, :last],
            torch.ones(last - first, last, dtype=torch.bool, device=key_KTD.device).tril(first),
            False,
            layout.capture.weights or self.needs_weights,
        )
        if weights_1HTS is None:
            return out_1HTD[0], None
        buffers.observe(row, weights_1HTS[0])
        return out_1HTD[0], weights_1HTS[0]

    def _decode(self, query_BH1D: Tensor, key_BK1D: Tensor, value_BK1D: Tensor, layout: Layout) -> Attended:
        """One token for every row at once (mutates)."""
        buffers, rows = self.buffers, range(len(self.rows))
        for row in rows:
            self._archive(row)
        if self.options.reselect == 1:
            self._select(rows, query_BH1D)
        else:
            self._select_when_due(query_BH1D)
        slots = [state.filled(self.sizes) for state in self.rows]
        for state in self.rows:
            state.length += 1
        used = max(slots) + 1
        mask = None
        if min(slots) == max(slots):
            rotation = self._rotation_at(slots[0], used)
        else:
            slots_B = torch.tensor(slots, device=buffers.device)
            rotation = Rotation(*(table[slots_B][:, None] for table in self.rotation))
            mask = (torch.arange(used, device=buffers.device) <= slots_B[:, None])[:, None, None]
        buffers.write_one(slots, key_BK1D, self.position.rotate(key_BK1D, rotation), value_BK1D)
        attended = attend(
            self.position.rotate(query_BH1D, rotation),
            buffers.rotated_BKAD[:, :, :used],
            buffers.value_BKAD[:, :, :used],
            mask,
            False,
            layout.capture.weights or self.needs_weights,
        )
        if attended.weights_BHTS is not None:
            for row in rows:
                buffers.observe(row, attended.weights_BHTS[row])
        return attended

    def _archive(self, row: int) -> None:
        """At a tile's start, moves the blocks that left the local window to the store (mutates)."""
        state, sizes, buffers = self.rows[row], self.sizes, self.buffers
        leaving = sizes.archived(state.length) - len(state.table_N)
        if leaving <= 0:
            return
        first, end = state.local_slot(sizes), state.filled(sizes)
        last = first + leaving * sizes.block
        key_NKLD, value_NKLD, received_NKL = buffers.blocks(row, slice(first, last), sizes.block)
        representative_NKRD = self.represent(key_NKLD, received_NKL, self.options.representatives)
        state.archive(self.store.append(key_NKLD, value_NKLD, representative_NKRD.transpose(0, 1)))
        chosen_KN = state.chosen_KN
        if len(state.table_N) <= sizes.blocks:
            chosen_KN = torch.arange(len(state.table_N)).expand(key_NKLD.shape[1], -1)
        self._lay(row, chosen_KN, slice(last, end))

    def _select(self, rows: Sequence[int], query_BHTD: Tensor, *, anew: bool = False) -> None:
        """Adds up what the queries of `rows` ask for, or counts `anew`, and takes the best blocks (mutates)."""
        for row in rows:
            self.rows[row].selected_at = self.rows[row].length
            if anew:
                self.rows[row].claims_KN = None
        choosing = [place for place, row in enumerate(rows) if len(self.rows[row].table_N) > self.sizes.blocks]
        if not choosing:
            return
        if len(choosing) < len(rows):
            query_BHTD = query_BHTD[choosing]
        query_BHTD = self.position.rotate(query_BHTD, self._rotation_over_distances)
        add_claims([self.rows[rows[place]] for place in choosing], query_BHTD, self.store, self.options.recency)
        for row in (rows[place] for place in choosing):
            state = self.rows[row]
            chosen_KN = state.best(self.sizes.blocks)
            if state.chosen_KN is None or not torch.equal(chosen_KN, state.chosen_KN):
                self._lay(row, chosen_KN, slice(state.local_slot(self.sizes), state.filled(self.sizes)))

    def _select_when_due(self, query_BH1D: Tensor) -> None:
        """A row's queries wait until there are enough of them, then choose together (mutates)."""
        for state, query_H1D in zip(self.rows, query_BH1D, strict=True):
            state.pending.append(query_H1D)
        due = [row for row, state in enumerate(self.rows) if len(state.pending) >= self.options.reselect]
        if due:
            self._select(due, torch.stack([torch.cat(self.rows[row].pending, dim=1) for row in due]))
            for row in due:
                self.rows[row].pending = []

    def _lay(self, row: int, chosen_KN: Tensor | None, local: slice) -> None:
        """Lays the row's slots anew: the same sinks, `chosen_KN` blocks, what stood in slots `local` (mutates)."""
        buffers, state, sizes = self.buffers, self.rows[row], self.sizes
        state.chosen_KN = chosen_KN
        first = state.local_slot(sizes)
        last = first + local.stop - local.start
        if first != local.start:
            received_KS = buffers.received_BKA[row, :, local].clone()
            self._fill(row, first, buffers.key_BKAD[row, :, local].clone(), buffers.value_BKAD[row, :, local].clone())
            buffers.received_BKA[row, :, first:last] = received_KS
        buffers.received_BKA[row, :, last:] = 0
        if state.num_chosen:
            assert chosen_KN is not None
            self._fill(row, sizes.sinks, *self.store.gather(state.table_N[chosen_KN], buffers.device))
            buffers.received_BKA[row, :, sizes.sinks : first] = 0

    def _fill(self, row: int, first: int, key_KSD: Tensor, value_KSD: Tensor) -> None:
        """Writes keys and values to slots from `first` on, and the keys rotated there (mutates)."""
        rotation = self._rotation_at(first, first + key_KSD.shape[1])
        self.buffers.write(row, first, key_KSD, self.position.rotate(key_KSD[None], rotation)[0], value_KSD)

    def _rotation_at(self, first: int, last: int) -> Rotation:
        return Rotation(self.rotation.cosine[first:last], self.rotation.sine[first:last])

    @cached_property
    def _rotation_over_distances(self) -> Rotation:
        """The mean of the rotations from each slot of a retrieved block to the last slot of a full window.

        A query turned by it and an unrotated key have, in one product, the mean score that the key would get in those
        slots: what RoPE turns many times within the window cancels out, what it hardly turns counts.
        """
        nearest = self.sizes.window + self.sizes.tile
        distances = slice(nearest, nearest + self.sizes.blocks * self.sizes.block)
        # Standing at 0, a key is not turned, but multiplied by the attention factor as everywhere else.
        key = self.rotation.cosine[:1]
        return Rotation(*(table[distances].mean(dim=0, keepdim=True) * key for table in self.rotation))

    def trace(self, row: int) -> list[list[int]]:
        """For each kv head, the first token of every block that the row now attends to."""
        chosen_KN = self.rows[row].chosen_KN
        if chosen_KN is None:
            return []
        starts: list[list[int]] = (self.sizes.sinks + chosen_KN * self.sizes.block).tolist()
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
        state.claims_KN, state.selected_at, state.pending = None, 0, []
        kept = sizes.archived(max(length - 1, 0))
        local = slice(state.local_slot(sizes), state.filled(sizes))
        returning_N = state.table_N[kept:]
        state.length = length
        needed = max(0, length - sizes.sinks - kept * sizes.block)
        if len(returning_N):
            both = zip(
                self.store.gather(returning_N.expand(heads, -1), buffers.device),
                (buffers.key_BKAD[row, :, local], buffers.value_BKAD[row, :, local]),
                strict=True,
            )
            key_KSD, value_KSD = (torch.cat(pair, dim=1)[:, :needed] for pair in both)
            self._fill(row, sizes.sinks, key_KSD, value_KSD)
            buffers.received_BKA[row, :, sizes.sinks :] = 0
            state.forget_from(kept)
            local = slice(sizes.sinks, sizes.sinks + needed)
        recent = torch.arange(max(0, kept - sizes.blocks), kept)
        self._lay(row, recent.expand(heads, -1) if kept else None, slice(local.start, local.start + needed))

    def select(self, rows: Sequence[int], shared: PerForward) -> Self:
        chosen = self._empty(shared)
        chosen.rows = [self.rows[row].fork() for row in rows]
        if self._buffers is not None:
            index_B = torch.tensor(list(rows), dtype=torch.int64, device=self._buffers.device)
            chosen._buffers = self._buffers.select(index_B)
        return chosen

    def join(self, other: Self, shared: PerForward) -> Self:
        joined = (self if self._buffers is not None else other)._empty(shared)
        joined.store = self.store
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

    def _empty(self, shared: PerForward) -> Self:
        """A layer like this one, without rows."""
        layer = type(self)(self.options, self.sizes, self.position, self.store, 0, shared)
        layer.rotation = self.rotation
        return layer
