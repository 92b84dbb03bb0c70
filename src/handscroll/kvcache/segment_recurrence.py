"""`segment_recurrence`: the text in segments, each read with the last one's states in sight (Transformer-XL, arXiv
1901.02860, section 3.2).

A query sees its own segment up to itself, and `memory` tokens before the segment. What is kept of these are keys and
values, which at inference say what the paper's hidden states do. Adds to `sliding_window`: all of a segment see
equally far back, so that what came before a segment is dropped at once and the segment is read in one piece. Through
the layers a token hears of what lies `memory` tokens further back in each.

Segments are stretches of the text, whatever chunks it arrives in. Made for models with `relative` positions, whose
sinusoids say any distance; others read the same way.

Letters: B rows, T tokens, S slots, H heads, K kv heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from handscroll.kvcache.full_layer import FullLayer
from handscroll.kvcache.layered import LayeredCache, Origin, PerForward, attend, refuse_unless_all_seen
from handscroll.kvcache.plan import Text, planned_layers, without_numbers
from handscroll.kvcache.store import TokenStore
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout, visible
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position, make_position, of_layer

Index = TypeVar("Index", int, Tensor)


class Sizes(NamedTuple):
    """Tokens of a segment, and tokens before it that are seen."""

    segment: int
    memory: int

    @property
    def seen(self) -> int:
        """The most that a token sees."""
        return self.segment + self.memory

    def seen_from(self, index: Index) -> Index:
        """The first index that a token sees, below 0 where it sees all."""
        return index // self.segment * self.segment - self.memory


@dataclass(frozen=True)
class SegmentRecurrence:
    """Sizes in tokens: `segment`, half of the trained window where it is None; `memory`, what is left of the window.

    In layers that were trained with a narrower window of their own, that one holds, too. Chunk-invariant.
    """

    segment: int | None = None
    memory: int | None = None

    chunk_invariant = True

    def __post_init__(self) -> None:
        if self.segment is not None and self.segment < 1:
            raise ValueError(f"segment={self.segment}: segment_recurrence needs at least 1")
        if self.memory is not None and self.memory < 0:
            raise ValueError(f"memory={self.memory}: a number of tokens, 0 or more")

    def start(self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS) -> LayeredCache:
        refuse_unless_all_seen(config, "segment_recurrence")
        shared = PerForward()
        return LayeredCache(
            self._layers(config, position, rows, stores, shared), shared, Origin(self, stores, position)
        )

    def plan(self, config: ModelConfig, text: Text, stores: Stores = CONTIGUOUS) -> Bytes:
        """The most that a cache holds of a text."""
        layers = self._layers(config, make_position(config), text.rows, without_numbers(stores), PerForward())
        return planned_layers(layers, config, text, stores)

    def sizes(self, trained: int) -> Sizes:
        """The sizes in force for a model that was trained on so many tokens."""
        segment = self.segment or max(1, trained // 2)
        return Sizes(segment, max(0, trained - segment) if self.memory is None else self.memory)

    def _layers(
        self, config: ModelConfig, position: Position, rows: int, stores: Stores, shared: PerForward
    ) -> list[FullLayer]:
        sizes = self.sizes(config.trained_window)
        return [
            SegmentLayer(of_layer(position, number), stores.tokens(rows), shared, sizes, config.window_of(number))
            for number in range(config.num_layers)
        ]


class SegmentLayer(FullLayer):
    """`window`: how far a token sees within that, as the model was trained; None: all of it."""

    reads_prefix = False

    def __init__(
        self,
        position: Position,
        store: TokenStore,
        shared: PerForward,
        sizes: Sizes,
        window: int | None,
    ):
        super().__init__(position, store, shared)
        self.sizes, self.window = sizes, window

    @property
    def keeps(self) -> int:
        return self.sizes.seen

    def append(self, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> None:
        """Remembers the layout's tokens (mutates); drops what the next one can't see once as much is stale."""
        if self.store.used + key_BKTD.shape[2] > 2 * self.sizes.seen:
            self.store.drop_before([self.sizes.seen_from(length) for length in self.store.lengths])
        super().append(key_BKTD, value_BKTD, layout)

    def _attend_to_all(self, query_BHTD: Tensor, layout: Layout, query_layout: Layout) -> Attended:
        """A forward of several segments is answered one after the other: none looks at more than it sees."""
        length, segment = query_BHTD.shape[2], self.sizes.segment
        is_plain = query_layout.is_uniform and len(set(self.store.bases)) == 1 and not layout.capture.weights
        if length <= segment or not is_plain:
            return super()._attend_to_all(query_BHTD, layout, query_layout)
        assert query_layout.starts is not None
        assert self.store.key_BKSD is not None and self.store.value_BKSD is not None
        start, base, outs = query_layout.starts[0], self.store.bases[0], []
        edges = sorted({start, *range((start // segment + 1) * segment, start + length, segment), start + length})
        for first, last in pairwise(edges):
            span = slice(first - start, last - start)
            slots = slice(max(0, self.sizes.seen_from(first) - base), last - base)
            asking, asking_BHTD = query_layout.part(span), query_BHTD[:, :, span]
            key_BKSD, value_BKSD = self.store.key_BKSD[:, :, slots], self.store.value_BKSD[:, :, slots]
            index_1S = torch.arange(slots.start, slots.stop, device=query_BHTD.device)[None] + base
            mask = self.visible(asking, index_1S)
            if self.weighs:
                mask = self.with_bias(mask, layout, asking, index_1S, asking_BHTD)
            if self.rotates_at_use:
                key_BKSD = self.position.rotate(key_BKSD, self.slot_rotation(layout, index_1S))
            outs.append(attend(self.asked(asking_BHTD), key_BKSD, value_BKSD, mask, False, False).out_BHTD)
        return Attended(torch.cat(outs, dim=2), None)

    def text_lengths(self, layout: Layout) -> Tensor:
        """(B, 1): a text is never longer for a query than what it sees."""
        return super().text_lengths(layout).clamp(max=self.sizes.seen)

    def sees_all(self, used: int) -> bool:
        first = max(self.sizes.seen_from(max(self.store.lengths) - 1), 0)
        return set(self.store.bases) == {first} and (self.window is None or used <= self.window)

    def visible(self, layout: Layout, index_BS: Tensor) -> Tensor:
        seen_BTS = visible(layout.index_BT, index_BS, self.window)
        # Of padding the first index is below all others: it goes on seeing everything.
        return (seen_BTS & (index_BS[:, None] >= self.sizes.seen_from(layout.index_BT)[:, :, None]))[:, None]

    def truncate(self, lengths: Sequence[int]) -> None:
        for row, (length, base) in enumerate(zip(lengths, self.store.bases, strict=True)):
            if base > max(0, self.sizes.seen_from(length)):
                raise ValueError(
                    f"row {row} can't be truncated to {length} tokens: segment_recurrence has dropped all before "
                    f"{base}, which its next token would see; read the text again"
                )
        super().truncate(lengths)
