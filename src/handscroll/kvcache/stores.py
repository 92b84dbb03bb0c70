"""Which store a policy gets: where bytes live, and in how many bits, is decided apart from what is remembered."""

from __future__ import annotations

from dataclasses import dataclass

from handscroll.kvcache.archive import Archive
from handscroll.kvcache.block_index import BlockIndex
from handscroll.kvcache.block_lru import LruBlockStore
from handscroll.kvcache.block_store import BlockStore
from handscroll.kvcache.blocks import Blocks, FewBits, Plain
from handscroll.kvcache.places import Place
from handscroll.kvcache.store import TokenStore
from handscroll.kvcache.tiered_store import TieredStore


@dataclass(frozen=True)
class Stores:
    """`bits` and `place`: None leaves it to the policy. `recent`: so many latest tokens stay whole, on the device."""

    bits: int | None = None
    place: Place | None = None
    recent: int = 128

    def tokens(self, rows: int, sinks: int = 0, limit: int | None = None) -> TokenStore:
        """A store for one layer's latest tokens; see `TokenStore` for `sinks` and `limit`."""
        if self.bits is None and self.place is None:
            return TokenStore(rows, sinks, limit)
        return TieredStore(rows, sinks, Archive(self._blocks("device")), self.recent)

    def blocks(self, index: BlockIndex | None = None, device_blocks: int = 0) -> BlockStore:
        """A store for one layer's archived blocks; so many of them stay on a GPU once they were read."""
        blocks = self._blocks("host")
        return LruBlockStore(device_blocks, blocks, index) if device_blocks else BlockStore(blocks, index)

    def _blocks(self, place: str) -> Blocks:
        return Blocks(Plain() if self.bits is None else FewBits(self.bits), self.place or Place(place))


CONTIGUOUS = Stores()
