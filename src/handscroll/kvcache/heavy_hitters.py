"""`heavy_hitters`: the latest tokens, and those that were attended to most (H2O, arXiv 2306.14048, section 4).

Adds to `attention_sinks` that the text decides what stays. Each key adds up the attention that it has received, over
all queries and, as a mean, over the heads of its group; whenever a tile of the text (every 64 tokens) is complete, each
kv head keeps its `recent` latest keys and, of the others, the `heavy` ones with the largest sums. So what stays follows
from the text, never from the caller's chunks, and at most heavy + recent + tile tokens are held and attended to.

All kv heads hold equally many tokens, in the order of the text. With positions "cache" a key stands at its slot: keys
are held unrotated, and no distance exceeds the trained window, however long the text is. With "text", as in the paper,
a key stands where it stood in the text.

Until something is dropped all queries are held, as everything can still be forgotten; from then on those of one tile.

Letters: B rows, T tokens, S slots, H heads, K kv heads, N kept slots, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import torch
from torch import Tensor

from handscroll.kvcache.archive import nbytes
from handscroll.kvcache.kept_layer import KeptLayer, Served
from handscroll.kvcache.layered import LayeredCache, Origin, PerForward, refuse_unless_all_seen, tile_of
from handscroll.kvcache.plan import Text, planned_layers, without_numbers
from handscroll.kvcache.queries import Queries
from handscroll.kvcache.scorers import attention_received
from handscroll.kvcache.state import State
from handscroll.kvcache.store import TokenStore
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.kvcache.tiles import Piece, pieces, side_by_side
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position, make_position, of_layer

POSITIONS = ("cache", "text")

Index = TypeVar("Index", int, Tensor)


@dataclass(frozen=True)
class HeavyHitters:
    """Sizes in tokens. One that is None takes what the other and a tile leave of the trained window; both None: halves.

    `positions`: where a key stands, "cache" (its slot) or "text".
    """

    heavy: int | None = None
    recent: int | None = None
    positions: str = "cache"

    chunk_invariant = True

    def __post_init__(self) -> None:
        for name in ("heavy", "recent"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: heavy_hitters needs at least 1")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r}: known are {', '.join(POSITIONS)}")

    def start(self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS) -> LayeredCache:
        """ValueError where heavy, recent and tile together exceed the trained window that positions "cache" stay in."""
        refuse_unless_all_seen(config, "heavy_hitters")
        sizes, shared, cuts = self.sizes(config.trained_window), PerForward(), PerForward()
        layers = []
        for number in range(config.num_layers):
            own, store = of_layer(position, number), stores.tokens(rows, limit=sizes.attended)
            layers.append(HeavyLayer(own, store, shared, Served.of(config, number), cuts, sizes))
        return LayeredCache(layers, shared, Origin(self, stores, position))

    def plan(self, config: ModelConfig, text: Text, stores: Stores = CONTIGUOUS) -> Bytes:
        """The most that a cache holds of a text: as many tokens as are attended to, and their queries.

        What has been dropped from an archive leaves room there; later tokens use it again.
        """
        sizes, near = self.sizes(config.trained_window), without_numbers(stores)
        read = replace(text, tokens=min(text.tokens, sizes.attended), chunk=min(text.chunk, sizes.tile))
        store, position = near.tokens(text.rows, limit=sizes.attended), of_layer(make_position(config), 0)
        layer = KeptLayer(position, store, PerForward(), Served.of(config, config.num_layers - 1))
        held = planned_layers([layer], config, read, stores)
        votes = config.num_heads * config.head_width * read.tokens * text.dtype.itemsize
        numbers = 2 if layer.looks_at_places and not sizes.in_cache else 1
        sums = numbers * config.num_kv_heads * sizes.budget * 4 if text.tokens > sizes.budget else 0
        near_bytes = held.device + text.rows * (votes + sums)
        return Bytes(config.num_layers * near_bytes, config.num_layers * held.host)

    def sizes(self, trained: int) -> Sizes:
        """The sizes in force for a model that was trained on so many tokens."""
        tile = tile_of(trained)
        room = trained - tile
        heavy = self.heavy or max(1, room - self.recent if self.recent else room // 2)
        sizes = Sizes(heavy, self.recent or max(1, room - heavy), tile, self.positions == "cache")
        if sizes.in_cache and sizes.attended > trained:
            raise ValueError(
                f"heavy_hitters would attend to heavy {sizes.heavy} + recent {sizes.recent} + tile {tile} = "
                f"{sizes.attended} tokens, but the model was trained on {trained}: choose fewer, or positions=text"
            )
        return sizes


@dataclass(frozen=True)
class Sizes:
    """How many tokens stay, and in which slot a token is appended."""

    heavy: int
    recent: int
    tile: int
    in_cache: bool

    @property
    def budget(self) -> int:
        return self.heavy + self.recent

    @property
    def attended(self) -> int:
        return self.budget + self.tile

    def slot(self, index: Index) -> Index:
        """Of the token at an index: behind what stays when its tile begins."""
        into_tile = index % self.tile
        before = index - into_tile
        return into_tile + (before.clamp(max=self.budget) if isinstance(before, Tensor) else min(before, self.budget))


class HeavyLayer(KeptLayer):
    """Reads tile by tile. What a row holds follows from its length: a store's index is a slot."""

    # What stays depends on who has asked.
    some_may_ask = False
    reads_prefix = False

    def __init__(
        self,
        position: Position,
        store: TokenStore,
        shared: PerForward,
        served: Served,
        cuts: PerForward,
        sizes: Sizes,
    ):
        # In the cache no distance exceeds the trained window.
        super().__init__(position, store, shared, served._replace(window=None) if sizes.in_cache else served)
        self.cuts, self.sizes = cuts, sizes
        self.read = [0] * len(store.lengths)
        self.queries = Queries(len(store.lengths))
        self.received: list[Tensor | None] = [None] * len(store.lengths)

    @property
    def rotates_at_use(self) -> bool:
        return self.sizes.in_cache or super().rotates_at_use

    @property
    def looks_at_places(self) -> bool:
        return not self.sizes.in_cache and super().looks_at_places

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self.read)

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        assert asking is None, "all queries have a say in what stays"
        attended = []
        # Layouts of its own keep what is worked out from a layer's places apart from what others share.
        cuts = PerForward() if self.looks_at_places else self.cuts
        for span, piece in cuts.get(layout, "pieces", lambda: self._pieces(layout)):
            query_BHPD = query_BHTD[:, :, span]
            attended.append(super().attend(query_BHPD, key_BKTD[:, :, span], value_BKTD[:, :, span], piece))
            self._listen(query_BHPD, piece)
        return side_by_side(attended, self.sizes.attended)

    def _pieces(self, layout: Layout) -> list[Piece]:
        """Tile by tile; indices are slots, and so are positions where they are those in the cache."""
        found = []
        for span, piece in pieces(layout, self.sizes.tile):
            assert piece.starts is not None
            slot_BT = self.sizes.slot(piece.index_BT.clamp(min=0)).masked_fill(piece.index_BT < 0, -1)
            starts = tuple(self.sizes.slot(start) for start in piece.starts)
            in_slots = replace(piece, index_BT=slot_BT, starts=starts)
            if self.sizes.in_cache:
                in_slots = replace(in_slots, positions_BTP=slot_BT.clamp(min=0)[..., None])
            found.append(Piece(span, in_slots))
        return found

    def text_lengths(self, layout: Layout) -> Tensor:
        """(B, 1): at slots a query sees no more than budget and tile, however long the text is."""
        lengths_B1 = super().text_lengths(layout)
        return lengths_B1.clamp(max=self.sizes.attended) if self.sizes.in_cache else lengths_B1

    def _listen(self, query_BHTD: Tensor, layout: Layout) -> None:
        """Queries wait until their tile is complete; where it is and the budget exceeded, tokens go (mutates)."""
        assert layout.lengths is not None
        complete = []
        for row, length in enumerate(layout.lengths):
            if length:
                self.queries.add(row, query_BHTD[row, :, :length])
                self.read[row] += length
                if self.read[row] % self.sizes.tile == 0 and self.store.lengths[row] > self.sizes.budget:
                    complete.append(row)
        if complete:
            held = self.store.rows()
            slots: list[Tensor | None] = [None] * len(self.read)
            for row in complete:
                slots[row] = self._vote(row, held[row][0], layout)
            self.keep(slots)

    def _vote(self, row: int, key_KSD: Tensor, layout: Layout) -> Tensor:
        """(K, N): the slots of a row that stay, now that the waiting queries have voted, too (mutates)."""
        assert layout.totals is not None
        end = key_KSD.shape[1] if self.sizes.in_cache else self.read[row]
        received_KS = attention_received(self.meet(row, self.queries.of(row), key_KSD, end, layout.totals[row]))
        earlier_KS = self.received[row]
        if earlier_KS is not None:
            received_KS[:, : earlier_KS.shape[1]] += earlier_KS
        stored, device = key_KSD.shape[1], key_KSD.device
        first = stored - self.sizes.recent
        heavy_KN = received_KS[:, :first].topk(self.sizes.heavy, dim=1).indices.sort(dim=1).values
        recent_KN = torch.arange(first, stored, device=device).expand(len(heavy_KN), -1)
        kept_KN = torch.cat((heavy_KN, recent_KN), dim=1)
        self.received[row] = received_KS.gather(1, kept_KN)
        self.queries.clear(row)
        return kept_KN

    def bytes(self) -> Bytes:
        stored = super().bytes()
        received = nbytes(*(received_KS for received_KS in self.received if received_KS is not None))
        return Bytes(stored.device + self.queries.nbytes() + received, stored.host)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Anywhere until something was dropped, then within the latest tile; ValueError for less."""
        tile = self.sizes.tile
        for row, (length, read) in enumerate(zip(lengths, self.read, strict=True)):
            if self.store.lengths[row] < read and length < read - read % tile:
                raise ValueError(
                    f"row {row} can't be truncated to {length} tokens: heavy_hitters dropped tokens after "
                    f"{read - read % tile}, and those would be needed; read the text again, or keep a fork (select)"
                )
        forgotten = [read - length for read, length in zip(self.read, lengths, strict=True)]
        for row, number in enumerate(forgotten):
            self.queries.drop_last(row, number)
        self.store.truncate([held - number for held, number in zip(self.store.lengths, forgotten, strict=True)])
        self.read = list(lengths)

    def select(self, rows: Sequence[int], shared: PerForward) -> Self:
        chosen = super().select(rows, shared)
        chosen.read = [self.read[row] for row in rows]
        chosen.queries = self.queries.select(rows)
        chosen.received = [self.received[row] for row in rows]
        return chosen

    def join(self, other: Self, shared: PerForward) -> Self:
        joined = super().join(other, shared)
        joined.read = self.read + other.read
        joined.queries = self.queries.join(other.queries)
        joined.received = self.received + other.received
        return joined

    def state(self) -> State:
        return super().state() | {"read": self.read, "queries": self.queries.state(), "received": self.received}

    def restore(self, state: State, device: torch.device) -> None:
        super().restore(state, device)
        self.read, self.queries = state["read"], Queries.restored(state["queries"], device)
        self.received = [None if received is None else received.to(device) for received in state["received"]]
