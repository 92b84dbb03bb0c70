"""Grouped-query attention (arXiv 2305.13245): K kv heads serve H query heads; K = H is multi-head, K = 1 multi-query.

With `qk_norm` each head's queries and keys are normalized before they are turned, with one weight for all heads (as in
Qwen3, arXiv 2505.09388): scores can't grow with the size of what is projected (arXiv 2010.04245).

All kernels and caches divide products of queries and keys by sqrt(D). Where the options ask for another scale, queries
leave here longer or shorter, so that no memory has to know of it.

Letters: B batch, T tokens, Q tokens that ask, E model width, H heads, K kv heads, D head width, S keys.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from handscroll.model.config import ModelConfig
from handscroll.model.layout import Asking, Layout, pick
from handscroll.model.memory import Attended, LayerMemory
from handscroll.model.norm import make_norm
from handscroll.model.slots import GroupedQueryOptions


class GroupedQueryAttention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        width, head_width, bias = config.width, config.head_width, config.qkv_bias
        self.head_width = head_width
        self.q = nn.Linear(width, config.num_heads * head_width, bias=bias)
        self.k = nn.Linear(width, config.num_kv_heads * head_width, bias=bias)
        self.v = nn.Linear(width, config.num_kv_heads * head_width, bias=bias)
        self.o = nn.Linear(config.num_heads * head_width, width, bias=config.output_bias)
        scale = config.attention.scale if isinstance(config.attention, GroupedQueryOptions) else None
        self.lengthened = 1.0 if scale is None else scale * math.sqrt(head_width)
        self.has_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm, self.k_norm = (make_norm(config, head_width) for _ in "qk")

    def forward(
        self, x_BTE: Tensor, memory: LayerMemory, layout: Layout, asking: Asking | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, E) in and out; attention weights (B, H, T, S) as well where the layout captures them.

        With `asking` only these places of each row ask: (B, Q, E) out.
        """
        asking_BQE = x_BTE if asking is None else pick(x_BTE, asking.places_BQ)
        query_BHQD, key_BKTD, value_BKTD = map(self._heads, (self.q(asking_BQE), self.k(x_BTE), self.v(x_BTE)))
        asking_layout = None if asking is None else asking.layout
        if self.has_norm:
            query_BHQD, _ = self.q_norm(query_BHQD, asking_layout or layout)
            key_BKTD, _ = self.k_norm(key_BKTD, layout)
        if self.lengthened != 1.0:
            query_BHQD = self.lengthened * query_BHQD
        out_BHQD, weights_BHQS = self.attend(memory, query_BHQD, key_BKTD, value_BKTD, layout, asking_layout)
        return self.o(out_BHQD.transpose(1, 2).flatten(2)), weights_BHQS

    def _heads(self, x_BTF: Tensor) -> Tensor:
        """(B, T, H * D) -> (B, H, T, D)."""
        batch, length, features = x_BTF.shape
        return x_BTF.view(batch, length, features // self.head_width, self.head_width).transpose(1, 2)

    def attend(
        self,
        memory: LayerMemory,
        query_BHTD: Tensor,
        key_BKTD: Tensor,
        value_BKTD: Tensor,
        layout: Layout,
        asking: Layout | None,
    ) -> Attended:
        """What the memory makes of the projections. A variant that has more than these hands it over, too."""
        return memory.attend(query_BHTD, key_BKTD, value_BKTD, layout, asking)
