"""One layer of `block_memory`: reads tile by tile, decodes token by token, archives, looks up.

Windows depend on absolute tiles of the text, never on the caller's chunks: a token sees `window` tokens before its tile
(rounded to a block), and its tile up to itself. Selection does depend on chunks: blocks are chosen for a
forward's first tile and then once per `reselect_reading` tokens, by a tile's last queries, and for the text's last
tile, on which the next token rests, by as many of its last queries as a tile has. A text ends with its forward unless
the layout says that more follows.

Letters: B rows, T tokens, H heads, K kv heads, D head width, A attended slots, S slots, N blocks, L tokens of a block,
R representatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.kernels.attention import additive
from handscroll.kvcache.block_cuts import breaks_of, lengths_of, represent
from handscroll.kvcache.block_rows import BlockRows
from handscroll.kvcache.block_selection import add_claims
from handscroll.kvcache.block_slots import Buffers, mean_over_distances
from handscroll.kvcache.layered import attend
from handscroll.kvcache.representatives import QUERIES, REPRESENTATIVES
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended
from handscroll.model.position import Rotation

# Queries of a tile that choose blocks for the `reselect_reading` tokens that follow.
READING_QUERIES = 2
# They look at one candidate where a question looks at so many.
READING_CANDIDATES = 4


class Piece(NamedTuple):
    """What one row's tokens in `span` of a chunk read: (H, T, D); weights (H, T, S) where somebody wants them."""

    span: slice
    out_HTD: Tensor
    weights_HTS: Tensor | None


class BlockLayer(BlockRows):
    @property
    def per_head(self) -> bool:
        """Whether each kv head reads blocks of its own."""
        return self.options.selection == "per_head"

    @property
    def needs_weights(self) -> bool:
        return self.options.representative == "attended"

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        assert asking is None, "queries choose blocks: all of them ask"
        assert layout.starts == self.lengths and layout.lengths is not None, "rows continue where the cache ends"
        if self._buffers is None:
            self._buffers = Buffers.empty(key_BKTD, self.sizes.attended)
            self.rotation = Rotation(*(table.to(key_BKTD.device) for table in self.rotation))
        if self.sizes.by_sentence and layout.ends_BT is not None:
            for state, found in zip(
                self.rows, self.shared.get(layout, "breaks", lambda: breaks_of(layout)), strict=True
            ):
                state.breaks.extend(found)
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
        goes_on = layout.totals is not None and layout.totals[row] > state.length + length
        if length:
            state.pending = []
        while offset < length:
            span = slice(offset, min(length, offset + sizes.tile - state.length % sizes.tile))
            self._archive(row)
            if span.stop == length and not goes_on:
                self._select([row], query_HTD[None, :, max(0, length - sizes.tile) :], anew=True)
            elif offset == 0 or state.length - state.selected_at >= self.options.reselect_reading:
                asking_1HTD = query_HTD[None, :, span][:, :, -READING_QUERIES:]
                self._select(
                    [row], asking_1HTD, anew=True, candidates=-(-self.options.candidates // READING_CANDIDATES)
                )
            attended = self._attend_tile(row, query_HTD[:, span], key_KTD[:, span], value_KTD[:, span], layout)
            yield Piece(span, *attended)
            offset = span.stop

    def _attend_tile(
        self, row: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor | None]:
        """Appends tokens within one tile and attends causally to all slots in use (mutates)."""
        state, buffers = self.rows[row], self.buffers
        first = state.filled
        state.length += query_HTD.shape[1]
        last = state.filled
        self._fill(row, first, key_KTD, value_KTD)
        visible_TS = torch.ones(last - first, last, dtype=torch.bool, device=key_KTD.device).tril(first)
        out_1HTD, weights_1HTS = attend(
            self.position.rotate(query_HTD[None], self._rotation_at(first, last)),
            buffers.rotated_BKAD[row : row + 1, :, :last],
            buffers.value_BKAD[row : row + 1, :, :last],
            self._with_bias(visible_TS, [range(first, last)], last),
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
        slots = [state.filled for state in self.rows]
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
        mask = self._with_bias(mask, [[slot] for slot in slots], used)
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
        ends = state.leaving(sizes)
        if not ends:
            return
        lengths = lengths_of(sizes.sinks + state.archived, ends)
        first, filled = state.local_slot(sizes), state.filled
        key_NKLD, value_NKLD, received_NKL = buffers.blocks(row, first, lengths, sizes.block)
        kind, number = REPRESENTATIVES[self.options.representative], min(self.options.representatives, sizes.shortest)
        representative_NKRD = represent(kind, key_NKLD, received_NKL, lengths, number)
        state.archive(self.store.append(key_NKLD, value_NKLD, representative_NKRD.transpose(0, 1)), ends)
        chosen_KN = state.chosen_KN
        if state.archived <= sizes.retrieved:
            chosen_KN = torch.arange(len(state.table_N)).expand(key_NKLD.shape[1], -1)
        self._lay(row, chosen_KN, slice(first + sum(lengths), filled))

    def _select(
        self, rows: Sequence[int], query_BHTD: Tensor, *, anew: bool = False, candidates: int | None = None
    ) -> None:
        """Adds up what the queries of `rows` ask for, or counts `anew`, and takes the best blocks (mutates).

        candidates: how many the index finds; as many as the options say by default.
        """
        for row in rows:
            self.rows[row].selected_at = self.rows[row].length
            if anew:
                self.rows[row].claims_KN = None
        choosing = [place for place, row in enumerate(rows) if self.rows[row].archived > self.sizes.retrieved]
        if not choosing:
            return
        if len(choosing) < len(rows):
            query_BHTD = query_BHTD[choosing]
        query_BHTD = self.position.rotate(query_BHTD, self._rotation_over_distances)
        if self.options.representative in QUERIES:
            query_BHTD = QUERIES[self.options.representative](query_BHTD)
        choosing_rows = [self.rows[rows[place]] for place in choosing]
        candidates = candidates or self.options.candidates
        add_claims(choosing_rows, query_BHTD, self.store, self.options.recency, self._scale_D, candidates)
        for row in (rows[place] for place in choosing):
            state = self.rows[row]
            chosen_KN = state.best(self.sizes, self.per_head)
            # Where all heads choose the same, one of them is looked at: a token's time counts.
            seen = slice(None) if self.per_head else slice(1)
            state.lookups.note(chosen_KN[seen], None if state.chosen_KN is None else state.chosen_KN[seen])
            if state.chosen_KN is None or not torch.equal(chosen_KN, state.chosen_KN):
                self._lay(row, chosen_KN, slice(state.local_slot(self.sizes), state.filled))

    def _select_when_due(self, query_BH1D: Tensor) -> None:
        """A row's queries wait until there are enough of them, then choose together (mutates)."""
        for state, query_H1D in zip(self.rows, query_BH1D, strict=True):
            state.pending.append(query_H1D)
        due = [row for row, state in enumerate(self.rows) if len(state.pending) >= self.options.reselect]
        if due:
            self._select(due, torch.stack([torch.cat(self.rows[row].pending, dim=1) for row in due]))
            for row in due:
                self.rows[row].pending = []

    def _with_bias(self, mask: Tensor | None, slots: Sequence[Sequence[int]], used: int) -> Tensor | None:
        """What the queries in each row's `slots` see of the first `used` ones, as the kernel takes it."""
        if not self.position.adds_bias:
            return mask
        query_BT = torch.tensor([[*row] for row in slots], device=self.buffers.device)
        keys_S, attended = torch.arange(used, device=query_BT.device), torch.tensor(self.sizes.attended)
        return additive(self.position.bias(query_BT, keys_S, attended), mask, False)

    @cached_property
    def _rotation_over_distances(self) -> Rotation:
        return mean_over_distances(self.rotation, self.sizes)

    @cached_property
    def _scale_D(self) -> Tensor:
        """What is left of each feature of a query that is turned by `_rotation_over_distances`, twice for `QUERIES`."""
        features_11DD = torch.eye(self.buffers.key_BKAD.shape[-1], device=self.buffers.device)[None, None]
        turned_11DD = self.position.rotate(features_11DD, self._rotation_over_distances)
        scale_D: Tensor = turned_11DD[0, 0].norm(dim=-1)
        return scale_D.repeat(2) if self.options.representative in QUERIES else scale_D
