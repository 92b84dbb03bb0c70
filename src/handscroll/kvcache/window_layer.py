"""A layer whose queries see the last tokens only, and that drops what none can see any more.

Which window that is, a policy says, or the model itself: what it was trained with holds with a cache as without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from handscroll.kvcache.full_layer import FullLayer
from handscroll.kvcache.layered import PerForward, attend
from handscroll.kvcache.store import TokenStore
from handscroll.kvcache.stores import Stores
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout, visible
from handscroll.model.memory import Attended
from handscroll.model.position import Position, of_layer

# Queries that are answered at a time are no fewer than this.
SPAN = 64


class WindowLayer(FullLayer):
    """`longest`: of a longer text positions turn as in one of so many tokens; None: as in the whole text."""

    window: int

    def __init__(
        self, position: Position, store: TokenStore, shared: PerForward, window: int, longest: int | None = None
    ):
        super().__init__(position, store, shared)
        self.window, self.longest = window, longest

    def append(self, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> None:
        """Remembers the layout's tokens (mutates); drops old ones once a window's worth of slots is stale."""
        if self.store.used + key_BKTD.shape[2] > 2 * self.window:
            self.store.drop_before([length - self.window + 1 for length in self.store.lengths])
        super().append(key_BKTD, value_BKTD, layout)

    def text_lengths(self, layout: Layout) -> Tensor:
        """(B, 1): where a policy lets a query see no more than a window, a text is never longer for it."""
        lengths_B1 = super().text_lengths(layout)
        return lengths_B1 if self.longest is None else lengths_B1.clamp(max=self.longest)

    def sees_all(self, used: int) -> bool:
        return used <= self.window

    def visible(self, layout: Layout, index_BS: Tensor) -> Tensor:
        return visible(layout.index_BT, index_BS, self.window, layout.prefix_BT)[:, None]

    def _attend_to_all(self, query_BHTD: Tensor, layout: Layout, query_layout: Layout) -> Attended:
        """A long forward is answered in spans of about a window of queries, each of which sees two windows of keys."""
        length, size = query_BHTD.shape[2], max(self.window, SPAN)
        is_plain = query_layout.is_uniform and query_layout.prefix_BT is None and not self.weighs
        is_plain = is_plain and len(set(self.store.bases)) == 1
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
            mask_TS = self.shared.get(query_layout, f"band {first} {self.window}", band)
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
                    f"row {row} can't be truncated to {length} tokens: a sliding window has dropped all before "
                    f"{base}, and {self.window - 1} tokens before the new end would be needed; read the text again"
                )
        super().truncate(lengths)


def text_layers(
    config: ModelConfig, position: Position, rows: int, stores: Stores, shared: PerForward, most: int | None = None
) -> list[FullLayer]:
    """For every layer of a model one that keeps what this layer can see, and no more than `most` tokens of it."""
    windows = [min((w for w in (config.window_of(n), most) if w), default=None) for n in range(config.num_layers)]
    return [
        FullLayer(of_layer(position, number), stores.tokens(rows), shared)
        if window is None
        else WindowLayer(of_layer(position, number), stores.tokens(rows), shared, window, most)
        for number, window in enumerate(windows)
    ]
