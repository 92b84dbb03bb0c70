"""`quantized`: any policy, whose older keys and values are kept in 8 or 4 bits (KIVI, arXiv 2402.02750).

Adds to a policy a store: what is remembered stays that policy's decision. Keys share a scale per channel within 32
tokens, values per token within 32 channels; the latest tokens stay whole, and `block_memory` keeps whole what it reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from handscroll.kernels.quantize import BITS
from handscroll.kvcache.full import FULL
from handscroll.kvcache.layered import LayeredCache
from handscroll.kvcache.plan import Text
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.model.config import ModelConfig
from handscroll.model.memory import Bytes
from handscroll.model.position import Position

if TYPE_CHECKING:
    from handscroll.kvcache import Policy


@dataclass(frozen=True)
class Quantized:
    """`recent`: tokens that are never quantized, the latest ones."""

    inner: Policy = FULL
    bits: int = 8
    recent: int = 128

    chunk_invariant = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits={self.bits}: quantized keeps numbers in 8 or 4 bits")
        if self.recent < 0:
            raise ValueError(f"recent={self.recent}: a number of tokens, 0 or more")

    def start(self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS) -> LayeredCache:
        return self.inner.start(config, position, rows, self._stores(stores))

    def plan(self, config: ModelConfig, text: Text, stores: Stores = CONTIGUOUS) -> Bytes:
        """The most that a cache holds of a text."""
        return self.inner.plan(config, text, self._stores(stores))

    def _stores(self, stores: Stores) -> Stores:
        return replace(stores, bits=self.bits, recent=self.recent)
