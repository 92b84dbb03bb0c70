"""A layer of a model with sparse attention: it keeps every token, and shows each query its pattern of them.

Places in the text alone decide who sees whom, so that a query sees what it would have seen without a cache. Rows that
stand alike are answered in blocks, at a cost that doesn't grow with the text; all others under a mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handscroll.kernels.block_sparse import block_sparse_attention
from handscroll.kvcache.full_layer import FullLayer
from handscroll.kvcache.layered import PerForward
from handscroll.kvcache.store import TokenStore
from handscroll.model.attention.blocks import TextBlocks, text_blocks
from handscroll.model.attention.pattern import SparseOptions, block_table, dense_mask
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended
from handscroll.model.position import Position


class SparseLayer(FullLayer):
    reads_prefix = False

    def __init__(self, position: Position, store: TokenStore, shared: PerForward, options: SparseOptions):
        super().__init__(position, store, shared)
        self.options = options

    def sees_all(self, used: int) -> bool:
        return used <= self.options.window and self.options.dilation == 1 and not self.options.whole_blocks

    def visible(self, layout: Layout, index_BS: Tensor) -> Tensor:
        index_BT = layout.index_BT
        return dense_mask(self.options, True, index_BT, index_BS, torch.zeros_like(index_BT))[:, None]

    def _attend_to_all(self, query_BHTD: Tensor, layout: Layout, query_layout: Layout) -> Attended:
        in_blocks = layout is query_layout and layout.is_uniform and not self.sees_all(self.store.used)
        if not in_blocks or self.weighs or self.rotates_at_use or layout.capture.weights:
            return super()._attend_to_all(query_BHTD, layout, query_layout)
        assert self.store.key_BKSD is not None and self.store.value_BKSD is not None
        blocks, table_BNM, mask = self.shared.get(layout, "pattern", lambda: self._pattern(layout))
        slots = -(-self.store.used // self.options.block) * self.options.block
        key_BKSD, value_BKSD = (
            F.pad(x_BKSD[:, :, :slots], (0, 0, 0, max(0, slots - x_BKSD.shape[2])))
            for x_BKSD in (self.store.key_BKSD, self.store.value_BKSD)
        )
        out_BHSD = block_sparse_attention(blocks.spread(query_BHTD), key_BKSD, value_BKSD, table_BNM, mask)
        return Attended(blocks.collect(out_BHSD, query_BHTD.shape[2]), None)

    def _pattern(self, layout: Layout) -> tuple[TextBlocks, Tensor, Tensor]:
        blocks = text_blocks(layout, self.options.block)
        read = Layout.rows([self.store.used], device=layout.index_BT.device)
        return blocks, *block_table(self.options, True, blocks, text_blocks(read, self.options.block))
