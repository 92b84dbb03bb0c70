"""`full`: remembers every token, the yardstick of all other policies. Memory and time per token grow with the text.

Keys are rotated once, at insertion: nothing ever moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from handscroll.kvcache.layered import LayerCache, LayeredCache, PerForward, attend
from handscroll.kvcache.store import TokenStore
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout, visible
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position


@dataclass(frozen=True)
class Full:
    """Every token, at its own position. Chunk-invariant: the caller's chunks don't change an answer."""

    chunk_invariant = True

    def start(self, config: ModelConfig, position: Position, rows: int) -> LayeredCache:
        shared = PerForward()
        return LayeredCache([FullLayer(position, TokenStore(rows), shared) for _ in range(config.num_layers)], shared)


class FullLayer(LayerCache):
    some_may_ask = True

    def __init__(self, position: Position, store: TokenStore, shared: PerForward):
        self.position = position
        self.store = store
        self.shared = shared

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self.store.lengths)

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        rotation = self.shared.get(layout, "rotation", lambda: self.position.rotation(layout.positions_BTP[..., 0]))
        self.append(self.position.rotate(key_BKTD, rotation), value_BKTD, layout)
        if asking is not None:
            layout, rotation = asking, self.position.rotation(asking.positions_BTP[..., 0])
        assert self.store.key_BKSD is not None and self.store.value_BKSD is not None
        used = self.store.used
        causal = layout.is_uniform and layout.starts is not None and layout.starts[0] == 0 and self.sees_all(used)
        mask = None if causal else self.shared.get(layout, "mask", lambda: self.mask(layout, query_BHTD))
        return attend(
            self.position.rotate(query_BHTD, rotation),
            self.store.key_BKSD[:, :, :used],
            self.store.value_BKSD[:, :, :used],
            mask,
            causal,
            layout.capture.weights,
        )

    def append(self, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> None:
        """Remembers the layout's tokens (mutates)."""
        self.store.append(key_BKTD, value_BKTD, layout)

    def sees_all(self, used: int) -> bool:
        """Whether the latest query sees every key in the first `used` slots of a uniform batch."""
        return True

    def mask(self, layout: Layout, query_BHTD: Tensor) -> Tensor | None:
        """(B, 1, T, S); None where one token per row sees everything."""
        if layout.is_uniform and query_BHTD.shape[2] == 1 and self.sees_all(self.store.used):
            return None
        return visible(layout.index_BT, self.store.index_BS(query_BHTD.device))[:, None]

    def bytes(self) -> Bytes:
        return Bytes(device=self.store.nbytes(), host=0)

    def truncate(self, lengths: Sequence[int]) -> None:
        self.store.lengths = list(lengths)

    def select(self, rows: Sequence[int], shared: PerForward) -> FullLayer:
        return FullLayer(self.position, self.store.select(rows), shared)
