"""Grouped-query attention (arXiv 2305.13245): K kv heads serve H query heads; K = H is multi-head, K = 1 multi-query.

Letters: B batch, T tokens, Q tokens that ask, E model width, H heads, K kv heads, D head width, S keys.
"""

from __future__ import annotations

from torch import Tensor, nn

from handscroll.model.config import ModelConfig
from handscroll.model.layout import Asking, Layout, pick
from handscroll.model.memory import LayerMemory


class GroupedQueryAttention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        width, head_width, bias = config.width, config.head_width, config.qkv_bias
        self.head_width = head_width
        self.q = nn.Linear(width, config.num_heads * head_width, bias=bias)
        self.k = nn.Linear(width, config.num_kv_heads * head_width, bias=bias)
        self.v = nn.Linear(width, config.num_kv_heads * head_width, bias=bias)
        self.o = nn.Linear(config.num_heads * head_width, width, bias=config.output_bias)

    def forward(
        self, x_BTE: Tensor, memory: LayerMemory, layout: Layout, asking: Asking | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, E) in and out; attention weights (B, H, T, S) as well where the layout captures them.

        With `asking` only these places of each row ask: (B, Q, E) out.
        """
        asking_BQE = x_BTE if asking is None else pick(x_BTE, asking.places_BQ)
        query_BHQD, key_BKTD, value_BKTD = (
            projection(from_BTE).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for projection, from_BTE in ((self.q, asking_BQE), (self.k, x_BTE), (self.v, x_BTE))
        )
        asking_layout = None if asking is None else asking.layout
        out_BHQD, weights_BHQS = memory.attend(query_BHQD, key_BKTD, value_BKTD, layout, asking_layout)
        return self.o(out_BHQD.transpose(1, 2).flatten(2)), weights_BHQS
