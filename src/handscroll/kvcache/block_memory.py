"""`block_memory`: sinks, retrieved blocks and a local window (InfLLM, arXiv 2402.04617): all is kept, little is read.

Adds to `sliding_window`: what leaves the window is archived in blocks, and the queries of the moment look up the few
blocks that matter. A query attends to

    [ sinks | retrieved blocks, in the order of the text | local window ]

laid side by side from position 0, so that the model never sees a distance it was not trained on. Keys are held
unrotated and rotated at their slot; block scores compare unrotated queries with unrotated keys.

Windows depend on absolute tiles of the text, never on the caller's chunks: a token sees `window` tokens before its tile
(rounded to a block), and its tile up to itself. Selection does depend on chunks: within a forward that is longer than
`reselect_reading`, blocks are chosen once per that many tokens, by a few of the queries; the last tile, on which the
next token rests, always chooses with all of its queries.

Letters: B rows, T tokens, H heads, K kv heads, G heads per kv head, D head width, A attended slots, N blocks,
L tokens of a block, R representatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from handscroll.kvcache.layered import LayerCache, LayeredCache, PerForward, attend
from handscroll.kvcache.representatives import REPRESENTATIVES
from handscroll.kvcache.store import BlockStore, nbytes
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position

READING_QUERIES = 8


@dataclass(frozen=True)
class BlockMemory:
    """Sizes in tokens; None follows the trained window.

    `reselect`: generated tokens between two selections; `reselect_reading`: tokens between two while reading.
    """

    blocks: int = 6
    block_size: int | None = None
    sinks: int | None = None
    window: int | None = None
    tile: int | None = None
    representative: str = "key_norm"
    representatives: int = 4
    reselect: int = 4
    reselect_reading: int = 512

    chunk_invariant = False

    def __post_init__(self) -> None:
        if self.representative not in REPRESENTATIVES:
            raise ValueError(f"representative={self.representative!r}: known are {', '.join(REPRESENTATIVES)}")
        for name in ("blocks", "block_size", "window", "tile", "representatives", "reselect", "reselect_reading"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: block_memory needs at least 1")
        if self.sinks is not None and self.sinks < 0:
            raise ValueError(f"sinks={self.sinks}: a number of tokens, 0 or more")

    def start(self, config: ModelConfig, position: Position, rows: int) -> BlockMemoryCache:
        """ValueError where sinks, blocks, window and tile together exceed the trained window."""
        sizes, shared = Sizes.of(self, config.max_positions), PerForward()
        layers = [BlockLayer(self, sizes, position, BlockStore(), rows, shared) for _ in range(config.num_layers)]
        return BlockMemoryCache(layers, shared)


@dataclass(frozen=True)
class Sizes:
    """The sizes in force, all in tokens but `blocks`."""

    sinks: int
    blocks: int
    block: int
    window: int
    tile: int

    @classmethod
    def of(cls, options: BlockMemory, trained: int) -> Sizes:
        block = options.block_size or max(1, min(128, trained // 16))
        tile = options.tile or max(1, min(64, trained // 8))
        sinks = min(block, trained // 16) if options.sinks is None else options.sinks
        rest = trained - sinks - options.blocks * block - tile
        sizes = cls(sinks, options.blocks, block, options.window or max(rest, 1), tile)
        if sizes.attended > trained:
            raise ValueError(
                f"block_memory would attend to sinks {sinks} + blocks {sizes.blocks} x {block} + window {sizes.window} "
                f"+ tile {tile} = {sizes.attended} tokens, but the model was trained on {trained}: "
                "choose fewer or smaller blocks, or a smaller window"
            )
        return sizes

    @property
    def attended(self) -> int:
        return self.sinks + self.blocks * self.block + self.window + self.tile

    def local_start(self, index: int) -> int:
        """Index of the first token of the local window in the tile of `index`; whole blocks before it are archived."""
        first = index // self.tile * self.tile - self.window
        return self.sinks + max(0, -(-(first - self.sinks) // self.block)) * self.block


@dataclass
class Row:
    """What one sequence has archived and chosen. Slots: sinks, then `chosen_KN` blocks, then the local window."""

    length: int = 0
    table_N: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    chosen_KN: Tensor | None = None
    scores_KN: Tensor | None = None
    selected_at: int = 0

    @property
    def num_chosen(self) -> int:
        return 0 if self.chosen_KN is None else self.chosen_KN.shape[1]

    def local_slot(self, sizes: Sizes) -> int:
        return sizes.sinks + self.num_chosen * sizes.block

    def filled(self, sizes: Sizes) -> int:
        """Slots in use."""
        return self.length + (self.num_chosen - len(self.table_N)) * sizes.block


class BlockMemoryCache(LayeredCache):
    def trace(self, row: int) -> list[list[list[int]]]:
        """For each layer and kv head, the first token of every block that the row now attends to."""
        return [layer.trace(row) for layer in self.layers if isinstance(layer, BlockLayer)]

    def select(self, rows: Sequence[int]) -> BlockMemoryCache:
        """A new cache of these rows. Archived blocks are shared, not copied."""
        chosen = super().select(rows)
        return BlockMemoryCache(chosen.layers, chosen._shared)


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
        self.slots = position.rotation(torch.arange(sizes.attended))
        self.pending: list[Tensor] = []
        self.buffers: Buffers | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(row.length for row in self.rows)

    def attend(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> Attended:
        assert layout.starts == self.lengths and layout.lengths is not None, "rows continue where the cache ends"
        if self.buffers is None:
            self.buffers = Buffers.empty(key_BKTD, self.sizes.attended)
            self.slots = type(self.slots)(*(table.to(key_BKTD.device) for table in self.slots))
        if query_BHTD.shape[2] == 1 and min(layout.lengths) == 1:
            return self._decode(query_BHTD, key_BKTD, value_BKTD, layout)
        self.pending = []
        out_BHTD = torch.zeros_like(query_BHTD)
        weights_BHTA = None
        if layout.capture.weights:
            weights_BHTA = query_BHTD.new_zeros(*query_BHTD.shape[:3], self.sizes.attended)
        for row, length in enumerate(layout.lengths):
            for span, out_HTD, weights_HTS in self._read(
                row, query_BHTD[row, :, :length], key_BKTD[row, :, :length], value_BKTD[row, :, :length], layout
            ):
                out_BHTD[row, :, span] = out_HTD
                if weights_BHTA is not None and weights_HTS is not None:
                    weights_BHTA[row, :, span, : weights_HTS.shape[-1]] = weights_HTS
        return Attended(out_BHTD, weights_BHTA)

    def _read(self, row: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, layout: Layout):  # type: ignore[no-untyped-def]
        """Reads one row's tokens tile by tile; yields (span, output, weights)."""
        state, sizes, length = self.rows[row], self.sizes, query_HTD.shape[1]
        state.scores_KN = None
        is_short = length <= self.options.reselect_reading
        offset = 0
        while offset < length:
            span = slice(offset, min(length, offset + sizes.tile - state.length % sizes.tile))
            is_due = state.length - state.selected_at >= self.options.reselect_reading
            self._archive(row)
            if is_short or offset == 0 or is_due or span.stop == length:
                piece_HTD = query_HTD[:, span]
                if not is_short:
                    state.scores_KN = None
                    if span.stop < length:
                        piece_HTD = piece_HTD[:, :: max(1, piece_HTD.shape[1] // READING_QUERIES)]
                self._score([row], piece_HTD[None])
                self._choose(row)
            yield span, *self._attend_span(row, query_HTD[:, span], key_KTD[:, span], value_KTD[:, span], layout)
            offset = span.stop

    def _attend_span(
        self, row: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor | None]:
        """Appends tokens within one tile and attends causally to all slots in use."""
        buffers, state = self.buffers, self.rows[row]
        assert buffers is not None
        first = state.filled(self.sizes)
        state.length += query_HTD.shape[1]
        last = state.filled(self.sizes)
        rotation = self._slots(first, last)
        buffers.key_BKAD[row, :, first:last] = key_KTD
        buffers.value_BKAD[row, :, first:last] = value_KTD
        buffers.rotated_BKAD[row, :, first:last] = self.position.rotate(key_KTD[None], rotation)[0]
        mask_TA = torch.ones(last - first, last, dtype=torch.bool, device=key_KTD.device).tril(first)
        out_1HTD, weights_1HTA = attend(
            self.position.rotate(query_HTD[None], rotation),
            buffers.rotated_BKAD[row : row + 1, :, :last],
            buffers.value_BKAD[row : row + 1, :, :last],
            mask_TA,
            False,
            layout.capture.weights or self.needs_weights,
        )
        if self.needs_weights and weights_1HTA is not None:
            self._observe(row, weights_1HTA[0])
        return out_1HTD[0], None if weights_1HTA is None else weights_1HTA[0]

    def _decode(self, query_BH1D: Tensor, key_BK1D: Tensor, value_BK1D: Tensor, layout: Layout) -> Attended:
        """One token for every row at once."""
        buffers, rows = self.buffers, list(range(len(self.rows)))
        assert buffers is not None
        for row in rows:
            self._archive(row)
        self.pending.append(query_BH1D)
        if len(self.pending) >= self.options.reselect:
            self._score(rows, torch.cat(self.pending, dim=2))
            self.pending = []
            for row in rows:
                self._choose(row)
        slots = [state.filled(self.sizes) for state in self.rows]
        for state in self.rows:
            state.length += 1
        if len(set(slots)) == 1:
            rotation, mask = self._slots(slots[0], slots[0] + 1), None
            where: tuple[slice | Tensor, ...] = (slice(None), slice(None), slice(slots[0], slots[0] + 1))
            rotated_BK1D, new_key, new_value = self.position.rotate(key_BK1D, rotation), key_BK1D, value_BK1D
            new_rotated = rotated_BK1D
        else:
            slots_B = torch.tensor(slots, device=key_BK1D.device)
            rotation = type(self.slots)(self.slots.cosine[slots_B][:, None], self.slots.sine[slots_B][:, None])
            mask = (torch.arange(max(slots) + 1, device=key_BK1D.device) <= slots_B[:, None])[:, None, None]
            where = (torch.arange(len(rows), device=key_BK1D.device), slice(None), slots_B)
            new_rotated = self.position.rotate(key_BK1D, rotation)[:, :, 0]
            new_key, new_value = key_BK1D[:, :, 0], value_BK1D[:, :, 0]
        buffers.key_BKAD[where] = new_key
        buffers.value_BKAD[where] = new_value
        buffers.rotated_BKAD[where] = new_rotated
        used = max(slots) + 1
        attended = attend(
            self.position.rotate(query_BH1D, rotation),
            buffers.rotated_BKAD[:, :, :used],
            buffers.value_BKAD[:, :, :used],
            mask,
            False,
            layout.capture.weights or self.needs_weights,
        )
        if self.needs_weights and attended.weights_BHTS is not None:
            for row in rows:
                self._observe(row, attended.weights_BHTS[row])
        return attended

    def _archive(self, row: int) -> None:
        """At a tile's start, moves the blocks that left the local window to the store (mutates)."""
        state, sizes, buffers = self.rows[row], self.sizes, self.buffers
        assert buffers is not None
        leaving = (sizes.local_start(state.length) - sizes.sinks) // sizes.block - len(state.table_N)
        if leaving <= 0:
            return
        first = state.local_slot(sizes)
        last = first + leaving * sizes.block
        key_NKLD, value_NKLD = (
            buffer_BKAD[row, :, first:last].unflatten(1, (leaving, sizes.block)).transpose(0, 1)
            for buffer_BKAD in (buffers.key_BKAD, buffers.value_BKAD)
        )
        received_NKL = buffers.received_BKA[row, :, first:last].unflatten(1, (leaving, sizes.block)).transpose(0, 1)
        representative_NKRD = self.represent(key_NKLD, received_NKL, self.options.representatives)
        numbers_N = self.store.append(key_NKLD, value_NKLD, representative_NKRD.transpose(0, 1))
        keep = state.filled(sizes)
        state.table_N = torch.cat((state.table_N, numbers_N.cpu()))
        if state.scores_KN is not None:
            state.scores_KN = torch.nn.functional.pad(state.scores_KN / 2, (0, leaving))
        chosen_KN = state.chosen_KN
        if len(state.table_N) <= sizes.blocks:
            heads = buffers.key_BKAD.shape[1]
            chosen_KN = torch.arange(len(state.table_N)).expand(heads, -1)
        self._rebuild(row, chosen_KN, slice(last, keep))

    def _score(self, rows: list[int], query_BHTD: Tensor) -> None:
        """Adds to each row's block scores: the sum over queries of the best representative's score (mutates)."""
        states = [self.rows[row] for row in rows]
        if all(len(state.table_N) <= self.sizes.blocks for state in states):
            return
        assert self.store.representative_KNRD is not None
        representative_KNRD = self.store.representative_KNRD[:, : self.store.count]
        heads, number, each, width = representative_KNRD.shape
        batch, _, length, _ = query_BHTD.shape
        query_KQD = query_BHTD.unflatten(1, (heads, -1)).permute(1, 0, 2, 3, 4).reshape(heads, -1, width)
        scores_KQM = query_KQD @ representative_KNRD.reshape(heads, number * each, width).transpose(1, 2)
        scores_KBN = scores_KQM.view(heads, batch, -1, number, each).amax(-1).sum(2)
        for column, state in enumerate(states):
            scores_KN = scores_KBN[:, column]
            if len(state.table_N) < number:
                scores_KN = scores_KN[:, state.table_N]
            state.scores_KN = scores_KN if state.scores_KN is None else state.scores_KN + scores_KN

    def _choose(self, row: int) -> None:
        """Takes each kv head's best blocks (mutates)."""
        state = self.rows[row]
        state.selected_at = state.length
        if state.scores_KN is None or len(state.table_N) <= self.sizes.blocks:
            return
        chosen_KN = state.scores_KN.topk(self.sizes.blocks, dim=-1).indices.sort(dim=-1).values.cpu()
        if state.chosen_KN is None or not torch.equal(chosen_KN, state.chosen_KN):
            self._rebuild(row, chosen_KN, slice(state.local_slot(self.sizes), state.filled(self.sizes)))

    def _rebuild(self, row: int, chosen_KN: Tensor | None, local: slice) -> None:
        """Lays the row's slots anew: the same sinks, `chosen_KN` blocks, what stood in slots `local` (mutates)."""
        buffers, state, sizes = self.buffers, self.rows[row], self.sizes
        assert buffers is not None
        state.chosen_KN = chosen_KN
        received_KS = buffers.received_BKA[row, :, local].clone()
        parts_key, parts_value = [], []
        if chosen_KN is not None and chosen_KN.shape[1]:
            key_KSD, value_KSD = self.store.gather(state.table_N[chosen_KN])
            parts_key, parts_value = [key_KSD.to(buffers.device)], [value_KSD.to(buffers.device)]
        key_KSD = torch.cat((*parts_key, buffers.key_BKAD[row, :, local]), dim=1)
        value_KSD = torch.cat((*parts_value, buffers.value_BKAD[row, :, local]), dim=1)
        first, last = sizes.sinks, sizes.sinks + key_KSD.shape[1]
        buffers.key_BKAD[row, :, first:last] = key_KSD
        buffers.value_BKAD[row, :, first:last] = value_KSD
        buffers.rotated_BKAD[row, :, first:last] = self.position.rotate(key_KSD[None], self._slots(first, last))[0]
        buffers.received_BKA[row, :, first:] = 0
        buffers.received_BKA[row, :, last - received_KS.shape[1] : last] = received_KS

    def _observe(self, row: int, weights_HTS: Tensor) -> None:
        """Adds up the attention that each slot received, over queries and the heads of its group (mutates)."""
        assert self.buffers is not None
        received_KA = self.buffers.received_BKA[row]
        stored = weights_HTS.shape[-1]
        received_KA[:, :stored] += weights_HTS.unflatten(0, (len(received_KA), -1)).sum(dim=(1, 2))

    def _slots(self, first: int, last: int):  # type: ignore[no-untyped-def]
        return type(self.slots)(self.slots.cosine[first:last], self.slots.sine[first:last])

    def trace(self, row: int) -> list[list[int]]:
        chosen_KN = self.rows[row].chosen_KN
        return [] if chosen_KN is None else (self.sizes.sinks + chosen_KN * self.sizes.block).tolist()

    def bytes(self) -> Bytes:
        held = 0 if self.buffers is None else self.buffers.nbytes()
        return Bytes(device=held + self.store.device_bytes(), host=self.store.host_bytes())

    def truncate(self, lengths: Sequence[int]) -> None:
        """Never forgets what it needs: blocks come back from the store where the window moves back over them."""
        sizes, self.pending = self.sizes, []
        for row, (state, length) in enumerate(zip(self.rows, lengths, strict=True)):
            if length == state.length:
                continue
            assert self.buffers is not None
            state.scores_KN, state.selected_at = None, 0
            kept = (sizes.local_start(max(length - 1, 0)) - sizes.sinks) // sizes.block
            returning_N = state.table_N[kept:]
            local = slice(state.local_slot(sizes), state.filled(sizes))
            heads = self.buffers.key_BKAD.shape[1]
            if len(returning_N):
                numbers_KN = returning_N.expand(heads, -1)
                key_KSD, value_KSD = (part.to(self.buffers.device) for part in self.store.gather(numbers_KN))
                old = (self.buffers.key_BKAD[row, :, local], self.buffers.value_BKAD[row, :, local])
                both = [torch.cat(pair, dim=1) for pair in ((key_KSD, old[0]), (value_KSD, old[1]))]
                local = slice(sizes.sinks, sizes.sinks + min(both[0].shape[1], sizes.attended - sizes.sinks))
                for buffer_BKAD, part_KSD in zip(
                    (self.buffers.key_BKAD, self.buffers.value_BKAD), both, strict=True
                ):
                    buffer_BKAD[row, :, local] = part_KSD[:, : local.stop - local.start]
                state.table_N = state.table_N[:kept]
            state.length = length
            chosen_KN = None
            if kept:
                recent = torch.arange(max(0, kept - sizes.blocks), kept)
                chosen_KN = recent.expand(heads, -1)
            state.chosen_KN = chosen_KN
            local = slice(local.start, local.start + max(0, length - sizes.sinks - kept * sizes.block))
            self._rebuild(row, chosen_KN, local)

    def select(self, rows: Sequence[int], shared: PerForward) -> BlockLayer:
        chosen = BlockLayer(self.options, self.sizes, self.position, self.store, 0, shared)
        chosen.slots = self.slots
        chosen.rows = [Row(**vars(self.rows[row])) for row in rows]
        if self.buffers is not None:
            index_B = torch.tensor(list(rows), dtype=torch.int64, device=self.buffers.device)
            chosen.buffers = self.buffers.select(index_B)
            chosen.pending = [query_BHTD[index_B] for query_BHTD in self.pending]
        return chosen


@dataclass
class Buffers:
    """The attended slots of every row: keys as they came, keys rotated at their slot, values, attention received."""

    key_BKAD: Tensor
    rotated_BKAD: Tensor
    value_BKAD: Tensor
    received_BKA: Tensor

    @classmethod
    def empty(cls, like_BKTD: Tensor, slots: int) -> Buffers:
        batch, heads, _, width = like_BKTD.shape
        tensors = [like_BKTD.new_zeros(batch, heads, slots, width) for _ in range(3)]
        return cls(*tensors, like_BKTD.new_zeros(batch, heads, slots))

    @property
    def device(self) -> torch.device:
        return self.key_BKAD.device

    def select(self, rows_B: Tensor) -> Buffers:
        return Buffers(*(buffer.index_select(0, rows_B) for buffer in vars(self).values()))

    def nbytes(self) -> int:
        return nbytes(*vars(self).values())
