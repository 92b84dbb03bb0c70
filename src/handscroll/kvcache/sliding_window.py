"""`sliding_window`: the last tokens only (Longformer, arXiv 2004.05150, section 3.1), and nothing of what came before.

Adds to `full`: a limit on how far back a query sees, and a store that drops what no query can see any more. Memory and
time per token are constant; so is the ignorance of everything older.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from handscroll.kvcache.full import FullLayer
from handscroll.kvcache.layered import LayeredCache, Origin, PerForward, attend
from handscroll.kvcache.store import TokenStore
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended
from handscroll.model.position import Position

# Queries that are answered at a time are no fewer than this.
SPAN = 64


@dataclass(frozen=True)
class SlidingWindow:
    """A query sees itself and the `window` - 1 tokens before it; None: as many as the model was trained on."""

    window: int | None = None

    chunk_invariant = True

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window}: a sliding window holds at least 1 token, the query's own")

    def start(self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS) -> LayeredCache:
        shared, window = PerForward(), self.window or config.max_positions
        layers = [WindowLayer(position, stores.tokens(rows), shared, window) for _ in range(config.num_layers)]
        return LayeredCache(layers, shared, Origin(self, stores, position))


class WindowLayer(FullLayer):
    def __init__(self, position: Position, store: TokenStore, shared: PerForward, window: int):
        super().__init__(position, store, shared)
        self.window = window

    def append(self, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> None:
        """Remembers the layout's tokens (mutates); drops old ones once a window's worth of slots is stale."""
        if self.store.used + key_BKTD.shape[2] > 2 * self.window:
            self.store.drop_before([length - self.window + 1 for length in self.store.lengths])
        super().append(key_BKTD, value_BKTD, layout)

    def text_lengths(self, layout: Layout) -> Tensor:
        """(B, 1): a query sees no more than the window, however long the text is."""
        return super().text_lengths(layout).clamp(max=self.window)

    def sees_all(self, used: int) -> bool:
        return used <= self.window

    def visible(self, layout: Layout, index_BS: Tensor) -> Tensor:
        query_BT1, key_B1S = layout.index_BT[:, :, None], index_BS[:, None, :]
        return super().visible(layout, index_BS) & ((query_BT1 - key_B1S < self.window) | (query_BT1 < 0))[:, None]

    def _attend_to_all(self, query_BHTD: Tensor, layout: Layout, query_layout: Layout) -> Attended:
        """A long forward is answered in spans of about a window of queries, each of which sees two windows of keys."""
        length, size = query_BHTD.shape[2], max(self.window, SPAN)
        is_plain = query_layout.is_uniform and len(set(self.store.bases)) == 1 and not self.position.adds_bias
        if length <= size or not is_plain or self.rotates_at_use or layout.capture.weights:
            return super()._attend_to_all(query_BHTD, layout, query_layout)
        assert query_layout.starts is not None
        assert self.store.key_BKSD is not None and self.store.value_BKSD is not None
        before, outs = query_layout.starts[0] - self.store.bases[0], []
        for first in range(0, length, size):
            last = min(first + size, length)
            slots = slice(max(0, before + first - self.window + 1), before + last)
            asking = slice(before + first, before + last)
            band = partial(self._band, asking, slots, query_BHTD.device)
            mask_TS = self.shared.get(query_layout, f"band {first}", band)
            key_BKSD, value_BKSD = self.store.key_BKSD[:, :, slots], self.store.value_BKSD[:, :, slots]
            outs.append(attend(query_BHTD[:, :, first:last], key_BKSD, value_BKSD, mask_TS, False, False).out_BHTD)
        return Attended(torch.cat(outs, dim=2), None)

    def _band(self, asking: slice, slots: slice, device: torch.device) -> Tensor:
        """(T, S): which of some slots the tokens in others see."""
        query_T1 = torch.arange(asking.start, asking.stop, device=device)[:, None]
        distance_TS = query_T1 - torch.arange(slots.start, slots.stop, device=device)
        return (distance_TS >= 0) & (distance_TS < self.window)

    def truncate(self, lengths: Sequence[int]) -> None:
        for row, (length, base) in enumerate(zip(lengths, self.store.bases, strict=True)):
            if base > max(0, length - self.window + 1):
                raise ValueError(
                    f"row {row} can't be truncated to {length} tokens: sliding_window has dropped all before {base}, "
                    f"and {self.window - 1} tokens before the new end would be needed; read the text again"
                )
        super().truncate(lengths)
