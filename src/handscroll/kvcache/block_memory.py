"""`block_memory`: sinks, retrieved blocks and a local window (InfLLM, arXiv 2402.04617): all is kept, little is read.

Adds to `sliding_window`: what leaves the window is archived in blocks, and the queries of the moment look up the few
blocks that matter. A query attends to

    [ sinks | retrieved blocks, in the order of the text | local window ]

laid side by side from position 0, so that the model never sees a distance it was not trained on. Keys are held
unrotated and rotated at their slot; a block's score is a mean over the distances at which retrieved blocks stand.
Positions that depend on the length (dynamic NTK, LongRoPE) turn as in a text of as many tokens as there are slots, from
the first token on: more are never attended to, however long the text is, and the trained window covers them.

The first layers may do without an archive: `local_layers` see no further than sinks and the latest tokens, and
`dense_layers` see all (Quest, arXiv 2406.10774, leaves its first two dense), at distances that grow with the text.

This file holds the options, the sizes that follow from them, and the cache; `block_layer.py` reads and decodes,
`block_rows.py` lays blocks into slots, goes back, forks, joins and saves, `block_selection.py` scores blocks,
`representatives.py` says what a block is scored by, `block_cuts.py` where it ends, `block_lru.py` keeps blocks at hand,
`block_statistics.py` counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from handscroll.kvcache import attention_sinks
from handscroll.kvcache.attention_sinks import SinksLayer
from handscroll.kvcache.block_index import BlockIndex, planned_index
from handscroll.kvcache.block_layer import BlockLayer
from handscroll.kvcache.block_statistics import LayerStatistics, layer_statistics
from handscroll.kvcache.layered import LayerCache, LayeredCache, Origin, PerForward, refuse_unless_all_seen, tile_of
from handscroll.kvcache.plan import Text, grown, planned_blocks, planned_layers, without_numbers
from handscroll.kvcache.representatives import REPRESENTATIVES
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.kvcache.window_layer import text_layers
from handscroll.model.config import ModelConfig
from handscroll.model.memory import Bytes
from handscroll.model.position import Position, make_position

SELECTIONS = ("shared", "per_head")
CUTS = ("fixed", "sentences")


@dataclass(frozen=True)
class Lookup:
    """How blocks are looked up.

    `selection`: "shared" gives all kv heads the blocks that one of them asks for most, "per_head" each its own.
    `reselect`: generated tokens between two selections; 1 looks up with the very token that asks.
    `reselect_reading`: tokens between two selections while reading a long text.
    `candidates`: representatives of a kv head that a selection looks at once a text is so long that finding them pays
    (`block_index.py`); 0: always every representative, as with `all`.
    `recency`: what a query counts for the selection relative to the query one token later; 1: all count the same.
    """

    representative: str = "key_contrast"
    representatives: int = 16
    selection: Literal["shared", "per_head"] = "shared"
    recency: float = 0.7
    reselect: int = 1
    reselect_reading: int = 4096
    candidates: int = 16384

    def __post_init__(self) -> None:
        if self.representative not in REPRESENTATIVES:
            raise ValueError(f"representative={self.representative!r}: known are {', '.join(REPRESENTATIVES)}")
        if self.selection not in SELECTIONS:
            raise ValueError(f"selection={self.selection!r}: known are {', '.join(SELECTIONS)}")
        _require(self, 1, "representatives", "reselect", "reselect_reading")
        if self.candidates < 0:
            raise ValueError(f"candidates={self.candidates}: a number, or 0 to look at every representative")
        if not 0 < self.recency <= 1:
            raise ValueError(f"recency={self.recency}: more than 0, at most 1 (every query counts the same)")


@dataclass(frozen=True)
class BlockMemory(Lookup):
    """Sizes in tokens; None follows the trained window.

    `cut`: "fixed" makes blocks of `block_size` tokens each; "sentences" ends them where a sentence ends in their second
    half, and reads as many as fit into the tokens of `blocks` full ones. Whoever reads a text says where sentences end
    (`Layout.ends_BT`); where nobody does, blocks are full.
    `local_layers`: so many first layers read sinks and latest tokens, as many as the others read; they can go back by a
    tile only. `dense_layers`: so many layers after these read the whole text, and hold it on the device.
    `device_blocks`: blocks that stay on a GPU after they were read; 0: none. On a CPU all are at hand anyway.
    """

    blocks: int = 4
    block_size: int | None = None
    cut: Literal["fixed", "sentences"] = "fixed"
    sinks: int | None = None
    window: int | None = None
    tile: int | None = None
    local_layers: int = 0
    dense_layers: int = 0
    device_blocks: int = 0

    chunk_invariant = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, 1, "blocks", "block_size", "window", "tile")
        if self.sinks is not None and self.sinks < 0:
            raise ValueError(f"sinks={self.sinks}: a number of tokens, 0 or more")
        if self.cut not in CUTS:
            raise ValueError(f"cut={self.cut!r}: known are {', '.join(CUTS)}")
        if self.cut == "sentences" and (self.selection == "per_head" or self.representative == "all"):
            raise ValueError(
                "cut='sentences' makes blocks of different lengths, which selection='per_head' and "
                "representative='all' can't lay side by side: choose others, or cut='fixed'"
            )
        _require(self, 0, "local_layers", "dense_layers")
        if self.device_blocks and self.device_blocks < self.blocks:
            raise ValueError(
                f"device_blocks={self.device_blocks}: 0, or at least the {self.blocks} blocks that are read at a time"
            )

    def start(
        self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS
    ) -> BlockMemoryCache:
        """ValueError where sinks, blocks, window and tile together exceed the trained window, or no layer archives."""
        refuse_unless_all_seen(config, "block_memory")
        if self.local_layers + self.dense_layers >= config.num_layers:
            raise ValueError(
                f"local_layers={self.local_layers} and dense_layers={self.dense_layers} leave block_memory none of "
                f"the model's {config.num_layers} layers: choose fewer, or the policy attention_sinks or full"
            )
        sizes, shared, cuts = Sizes.of(self, config.trained_window), PerForward(), PerForward()
        near, whole = sizes.without_archive, text_layers(config, position, rows, stores, shared)
        layers: list[LayerCache] = []
        for layer in range(config.num_layers):
            if layer < self.local_layers:
                layers.append(SinksLayer(position, stores.tokens(rows, near.sinks, near.held), shared, cuts, near))
            elif layer < self.local_layers + self.dense_layers:
                layers.append(whole[layer])
            else:
                store = stores.blocks(self._index(), self.device_blocks)
                layers.append(BlockLayer(self, sizes, position, store, rows, shared))
        return BlockMemoryCache(layers, shared, Origin(self, stores, position))

    def plan(self, config: ModelConfig, text: Text, stores: Stores = CONTIGUOUS) -> Bytes:
        """The most that a cache holds of a text; blocks that end with sentences are taken to be half full."""
        sizes, near, position = (
            Sizes.of(self, config.trained_window),
            without_numbers(stores),
            make_position(config),
        )
        few = sizes.without_archive
        dense = range(self.local_layers, self.local_layers + self.dense_layers)
        whole = text_layers(config, position, text.rows, near, PerForward())
        store = near.tokens(text.rows, few.sinks, few.held)
        local = [SinksLayer(position, store, PerForward(), PerForward(), few)] * self.local_layers
        first = planned_layers([*local, *(whole[layer] for layer in dense)], config, text, stores)
        archives = config.num_layers - self.local_layers - self.dense_layers
        each = self._planned_archive(sizes, config, text, stores)
        return Bytes(first.device + archives * each.device, first.host + archives * each.host)

    def _planned_archive(self, sizes: Sizes, config: ModelConfig, text: Text, stores: Stores) -> Bytes:
        """One layer's slots, blocks and representatives."""
        block_NKLD = text.keys(config.num_kv_heads, sizes.block, config.head_width)[:1]
        received_NKL = block_NKLD[..., 0]
        made_NKRD = REPRESENTATIVES[self.representative](block_NKLD, received_NKL, self.representatives)
        old = max(0, sizes.local_from(text.tokens - 1) - sizes.sinks)
        number, at_once = text.rows * -(-old // sizes.shortest), max(1, sizes.tile // sizes.shortest)
        slots = text.rows * config.num_kv_heads * sizes.attended * (3 * config.head_width + 1)
        near = slots * text.dtype.itemsize + grown(number, at_once) * made_NKRD.nbytes
        if self._index() is not None:
            near += planned_index(number, made_NKRD)
        if text.apart:
            near += self.device_blocks * 2 * block_NKLD.nbytes
        # Who owns a place is a number of 4 bytes.
        blocks = planned_blocks(number, at_once, block_NKLD, stores) + 4 * grown(number, at_once)
        return Bytes(near, blocks)

    def _index(self) -> BlockIndex | None:
        return BlockIndex() if self.candidates and self.representative != "all" else None


def _require(options: Lookup, least: int, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"{name}={value}: block_memory needs at least {least}")


@dataclass(frozen=True)
class Sizes:
    """The sizes in force, all in tokens but `blocks`."""

    sinks: int
    blocks: int
    block: int
    window: int
    tile: int
    by_sentence: bool = False

    @classmethod
    def of(cls, options: BlockMemory, trained: int) -> Sizes:
        block = options.block_size or max(1, min(128, trained // 16))
        tile = options.tile or tile_of(trained)
        sinks = min(block, trained // 16) if options.sinks is None else options.sinks
        # Older text is archived and can be looked up: a small local window leaves less to confuse with what is asked.
        sizes = cls(
            sinks, options.blocks, block, options.window or max(1, trained // 8), tile, options.cut == "sentences"
        )
        if sizes.attended > trained:
            raise ValueError(
                f"block_memory would attend to sinks {sinks} + blocks {sizes.blocks} x {block} + window {sizes.window} "
                f"+ tile {tile} = {sizes.attended} tokens, but the model was trained on {trained}: "
                "choose fewer or smaller blocks, or a smaller window"
            )
        if block > sizes.window + 1:
            raise ValueError(
                f"block_size={block} needs a window of at least {block - 1} tokens, not {sizes.window}: a block is "
                "archived once its first token has left the window, and must be complete by then"
            )
        return sizes

    @property
    def attended(self) -> int:
        return self.sinks + self.retrieved + self.window + self.tile

    @property
    def retrieved(self) -> int:
        """Tokens of archived blocks that are read at a time, at most."""
        return self.blocks * self.block

    @property
    def shortest(self) -> int:
        """The least tokens of a block: sentences leave it at least half full."""
        return -(-self.block // 2) if self.by_sentence else self.block

    @property
    def most_blocks(self) -> int:
        return self.retrieved // self.shortest

    @property
    def without_archive(self) -> attention_sinks.Sizes:
        """The same number of tokens, all of them sinks or local."""
        return attention_sinks.Sizes(self.sinks, self.retrieved + self.window, self.tile)

    def local_from(self, index: int) -> int:
        """Index of the first token that the tile of `index` must see; blocks that hold an earlier one are archived."""
        return index // self.tile * self.tile - self.window


class BlockMemoryCache(LayeredCache):
    """A cache whose archive can be looked at. Forks (`select`) share archived blocks."""

    @property
    def sizes(self) -> Sizes:
        return self._archives()[0][1].sizes

    def trace(self, row: int) -> list[list[list[int]]]:
        """For each layer that archives and kv head, the first token of every block that the row now attends to."""
        return [layer.trace(row) for _, layer in self._archives()]

    def attended_blocks(self, row: int) -> list[int]:
        """`trace` without its order: once for every layer and kv head, the first token of every block."""
        return [start for layer in self.trace(row) for head in layer for start in head]

    def blocks_with(self, row: int, first: int, last: int) -> list[int]:
        """The first token of each archived block that holds one of the tokens from `first` on and before `last`."""
        return self._archives()[0][1].rows[row].blocks_with(first, last, self.sizes)

    def block_end(self, row: int, first: int) -> int:
        """The index behind the archived block that begins with token `first`."""
        edges_N = self._archives()[0][1].rows[row].edges_N
        return int(edges_N[edges_N > first][0])

    def statistics(self) -> list[LayerStatistics]:
        """What every layer that archives holds and has looked up, since the cache was started."""
        return [layer_statistics(number, layer.rows, layer.store) for number, layer in self._archives()]

    def _archives(self) -> list[tuple[int, BlockLayer]]:
        return [(number, layer) for number, layer in enumerate(self.layers) if isinstance(layer, BlockLayer)]
