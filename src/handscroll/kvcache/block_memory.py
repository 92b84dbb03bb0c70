"""`block_memory`: sinks, retrieved blocks and a local window (InfLLM, arXiv 2402.04617): all is kept, little is read.

Adds to `sliding_window`: what leaves the window is archived in blocks, and the queries of the moment look up the few
blocks that matter. A query attends to

    [ sinks | retrieved blocks, in the order of the text | local window ]

laid side by side from position 0, so that the model never sees a distance it was not trained on. Keys are held
unrotated and rotated at their slot; a block's score is a mean over the distances at which retrieved blocks stand.
Positions that depend on the length (dynamic NTK, LongRoPE) turn as in a text of as many tokens as there are slots, from
the first token on: more are never attended to, however long the text is, and the trained window covers them.

This file holds the options, the sizes that follow from them, and the cache; `block_layer.py` reads and decodes,
`block_selection.py` scores blocks, `representatives.py` says what a block is scored by.
"""

from __future__ import annotations

from dataclasses import dataclass

from handscroll.kvcache.block_layer import BlockLayer
from handscroll.kvcache.layered import LayeredCache, Origin, PerForward, tile_of
from handscroll.kvcache.representatives import REPRESENTATIVES
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.model.config import ModelConfig
from handscroll.model.position import Position


@dataclass(frozen=True)
class BlockMemory:
    """Sizes in tokens; None follows the trained window.

    `reselect`: generated tokens between two selections; 1 looks up with the very token that asks.
    `reselect_reading`: tokens between two selections while reading a long text.
    `recency`: what a query counts for the selection relative to the query one token later; 1: all count the same.
    """

    blocks: int = 4
    block_size: int | None = None
    sinks: int | None = None
    window: int | None = None
    tile: int | None = None
    representative: str = "key_contrast"
    representatives: int = 16
    recency: float = 0.7
    reselect: int = 1
    reselect_reading: int = 4096

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
        if not 0 < self.recency <= 1:
            raise ValueError(f"recency={self.recency}: more than 0, at most 1 (every query counts the same)")

    def start(
        self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS
    ) -> BlockMemoryCache:
        """ValueError where sinks, blocks, window and tile together exceed the trained window."""
        sizes, shared = Sizes.of(self, config.max_positions), PerForward()
        layers = [BlockLayer(self, sizes, position, stores.blocks(), rows, shared) for _ in range(config.num_layers)]
        return BlockMemoryCache(layers, shared, Origin(self, stores, position))


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
        tile = options.tile or tile_of(trained)
        sinks = min(block, trained // 16) if options.sinks is None else options.sinks
        # Older text is archived and can be looked up: a small local window leaves less to confuse with what is asked.
        sizes = cls(sinks, options.blocks, block, options.window or max(1, trained // 8), tile)
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

    def archived(self, index: int) -> int:
        """Blocks that have left the local window when the tile of `index` begins."""
        first = index // self.tile * self.tile - self.window
        return max(0, -(-(first - self.sinks) // self.block))

    def local_start(self, index: int) -> int:
        """Index of the first token of the local window in the tile of `index`; whole blocks before it are archived."""
        return self.sinks + self.archived(index) * self.block


class BlockMemoryCache(LayeredCache):
    """A cache whose archive can be looked at. Forks (`select`) share archived blocks."""

    @property
    def block(self) -> int:
        """Tokens of an archived block."""
        return next(layer.sizes.block for layer in self.layers if isinstance(layer, BlockLayer))

    def trace(self, row: int) -> list[list[list[int]]]:
        """For each layer and kv head, the first token of every block that the row now attends to."""
        return [layer.trace(row) for layer in self.layers if isinstance(layer, BlockLayer)]
