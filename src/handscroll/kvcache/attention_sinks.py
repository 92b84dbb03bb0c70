"""`attention_sinks`: the first tokens and the last ones (StreamingLLM, arXiv 2309.17453, section 3.2).

Adds to `sliding_window`: a few first tokens that stay, as a model that was trained with them in sight puts the
attention there that it needs nowhere else; and positions within the cache. A query attends to

    [ sinks | the `window` tokens before its tile | its tile up to itself ]

laid side by side from position 0: no distance is larger than the trained window, however long the text is. Which tokens
these are, and where they stand, follows from absolute tiles of the text, never from the caller's chunks. Keys are
held unrotated, as the sinks stand elsewhere for every tile.

Letters: B rows, T tokens, Q tokens that ask, S slots, H heads, K kv heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from handscroll.kvcache.full_layer import FullLayer
from handscroll.kvcache.layered import LayeredCache, Origin, PerForward, refuse_unless_all_seen, tile_of
from handscroll.kvcache.plan import Text, planned_layers, without_numbers
from handscroll.kvcache.store import TokenStore
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.kvcache.tiles import Piece, pieces, side_by_side, widened
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position, make_position, of_layer

Index = TypeVar("Index", int, Tensor)


@dataclass(frozen=True)
class AttentionSinks:
    """Sizes in tokens. `window`: None takes what sinks and tile leave of the trained window; `tile` follows it, too.

    Sinks 0 leave a window with positions of its own; a tile of 1 is the paper's window, which moves with every token.
    """

    sinks: int = 4
    window: int | None = None
    tile: int | None = None

    chunk_invariant = True

    def __post_init__(self) -> None:
        if self.sinks < 0:
            raise ValueError(f"sinks={self.sinks}: a number of tokens, 0 or more")
        for name in ("window", "tile"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: attention_sinks needs at least 1")

    def start(self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS) -> LayeredCache:
        """ValueError where sinks, window and tile together exceed the trained window."""
        refuse_unless_all_seen(config, "attention_sinks")
        sizes, shared, cuts = self.sizes(config.trained_window), PerForward(), PerForward()
        layers = [
            SinksLayer(of_layer(position, number), stores.tokens(rows, sizes.sinks, sizes.held), shared, cuts, sizes)
            for number in range(config.num_layers)
        ]
        return LayeredCache(layers, shared, Origin(self, stores, position))

    def plan(self, config: ModelConfig, text: Text, stores: Stores = CONTIGUOUS) -> Bytes:
        """The most that a cache holds of a text."""
        sizes, shared, near = self.sizes(config.trained_window), PerForward(), without_numbers(stores)
        store = near.tokens(text.rows, sizes.sinks, sizes.held)
        layer = SinksLayer(make_position(config), store, shared, PerForward(), sizes)
        return planned_layers([layer] * config.num_layers, config, text, stores)

    def sizes(self, trained: int) -> Sizes:
        """The sizes in force for a model that was trained on so many tokens."""
        tile = self.tile or tile_of(trained)
        window = self.window or max(1, trained - self.sinks - tile)
        sizes = Sizes(self.sinks, window, tile)
        if sizes.attended > trained:
            raise ValueError(
                f"attention_sinks would attend to sinks {self.sinks} + window {window} + tile {tile} = "
                f"{sizes.attended} tokens, but the model was trained on {trained}: choose fewer sinks or a smaller "
                "window"
            )
        return sizes


@dataclass(frozen=True)
class Sizes:
    """Which tokens the tile of an index attends to, and where these stand."""

    sinks: int
    window: int
    tile: int

    @property
    def attended(self) -> int:
        return self.sinks + self.window + self.tile

    @property
    def held(self) -> int:
        """Slots of a row: what a tile attends to, and one more tile for going back."""
        return self.attended + self.tile

    def seen_from(self, index: Index) -> Index:
        """Index from which on the tile of `index` sees everything up to itself: the window's first."""
        return index // self.tile * self.tile - self.window

    def local_start(self, index: int) -> int:
        """Index of the first token behind the sinks that the tile of `index` sees."""
        return max(self.sinks, self.seen_from(index))

    def positions(self, index_BT: Tensor) -> Tensor:
        """Where tokens that ask stand in their own tile."""
        shift_BT = (self.seen_from(index_BT) - self.sinks).clamp(min=0)
        return (index_BT - shift_BT).clamp(min=0)


class SinksLayer(FullLayer):
    """Reads tile by tile. Holds, besides what the latest tile attends to, one more tile, for going back."""

    rotates_at_use = True
    reads_prefix = False

    def __init__(self, position: Position, store: TokenStore, shared: PerForward, cuts: PerForward, sizes: Sizes):
        super().__init__(position, store, shared)
        self.cuts, self.sizes = cuts, sizes

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        if asking is not None:
            return self._attend_some(query_BHTD, key_BKTD, value_BKTD, layout, asking)
        attended = []
        for span, piece in self.cuts.get(layout, "pieces", lambda: self.steps(layout)):
            parts = query_BHTD[:, :, span], key_BKTD[:, :, span], value_BKTD[:, :, span]
            attended.append(super().attend(*parts, piece))
        return side_by_side(attended, self.sizes.held)

    def _attend_some(
        self, query_BHQD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout
    ) -> Attended:
        """All tokens are remembered, these few ask: in a tile where none does, nothing is attended to (mutates)."""
        out_BHQD, weights_BHQS = torch.zeros_like(query_BHQD), None
        index_BQ = asking.index_BT.cpu()
        for span, piece in self.cuts.get(layout, "pieces", lambda: self.steps(layout)):
            assert piece.starts is not None and piece.lengths is not None
            first_B1, held_B1 = torch.tensor(piece.starts)[:, None], torch.tensor(piece.lengths)[:, None]
            here_BQ = (index_BQ >= first_B1) & (index_BQ < first_B1 + held_B1)
            if not here_BQ.any():
                self.append(key_BKTD[:, :, span], value_BKTD[:, :, span], piece)
                self.store.settle()
                continue
            here_BQ = here_BQ.to(query_BHQD.device)
            here_B1Q1 = here_BQ[:, None, :, None]
            positions_BQP = self.sizes.positions(asking.index_BT)[..., None]
            now = replace(asking, index_BT=asking.index_BT.masked_fill(~here_BQ, -1), positions_BTP=positions_BQP)
            attended = super().attend(query_BHQD, key_BKTD[:, :, span], value_BKTD[:, :, span], piece, now)
            out_BHQD = torch.where(here_B1Q1, attended.out_BHTD, out_BHQD)
            if attended.weights_BHTS is not None:
                now_BHQS = widened(attended.weights_BHTS, self.sizes.held)
                weights_BHQS = now_BHQS if weights_BHQS is None else torch.where(here_B1Q1, now_BHQS, weights_BHQS)
        return Attended(out_BHQD, weights_BHQS)

    @property
    def keeps(self) -> int:
        return self.sizes.held

    def steps(self, layout: Layout) -> list[Piece]:
        """Tile by tile; positions are those in the tile."""
        return [
            Piece(span, replace(piece, positions_BTP=self.sizes.positions(piece.index_BT)[..., None]))
            for span, piece in pieces(layout, self.sizes.tile)
        ]

    def slot_positions(self, layout: Layout, index_BS: Tensor) -> Tensor:
        assert layout.starts is not None
        sinks = self.sizes.sinks
        shifts = [self.sizes.local_start(start) - sinks for start in layout.starts]
        shift_B = torch.tensor(shifts, device=index_BS.device)
        return torch.where(index_BS < sinks, index_BS, index_BS - shift_B[:, None]).clamp(min=0)

    def text_lengths(self, layout: Layout) -> Tensor:
        """(B, 1): a query sees no more than sinks, window and tile, however long the text is."""
        return super().text_lengths(layout).clamp(max=self.sizes.attended)

    def append(self, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> None:
        """Remembers the tokens of one tile (mutates); drops what neither it nor the tile before can see."""
        assert layout.starts is not None
        self.store.drop_before([self.sizes.local_start(start - self.sizes.tile) for start in layout.starts])
        super().append(key_BKTD, value_BKTD, layout)

    def sees_all(self, used: int) -> bool:
        return used <= self.sizes.sinks + self.sizes.window and not any(self.store.bases)

    def visible(self, layout: Layout, index_BS: Tensor) -> Tensor:
        query_BT1, key_B1S = layout.index_BT[:, :, None], index_BS[:, None, :]
        near_BTS = key_B1S >= self.sizes.seen_from(query_BT1)
        local_BTS = near_BTS | (key_B1S < self.sizes.sinks) | (query_BT1 < 0)
        return super().visible(layout, index_BS) & local_BTS[:, None]

    def truncate(self, lengths: Sequence[int]) -> None:
        """Goes back by a tile at any time. ValueError where it is further and needed tokens were dropped."""
        sinks = self.sizes.sinks
        for row, (length, base) in enumerate(zip(lengths, self.store.bases, strict=True)):
            needed = self.sizes.local_start(length)
            if base and needed < min(length, sinks + base):
                raise ValueError(
                    f"row {row} can't be truncated to {length} tokens: attention_sinks has dropped those from {sinks} "
                    f"to {sinks + base}, and from {needed} on they would be needed; read the text again"
                )
        super().truncate(lengths)
