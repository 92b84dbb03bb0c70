"""Grouped-query attention (arXiv 2305.13245): K kv heads serve H query heads; K = H is multi-head, K = 1 multi-query.

Letters: B batch, T tokens, E model width, H heads, K kv heads, D head width, S keys.
"""

from __future__ import annotations

from torch import Tensor, nn

from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
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

    def forward(self, x_BTE: Tensor, memory: LayerMemory, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """(B, T, E) in and out; attention weights (B, H, T, S) as well where the layout captures them."""
        batch, length, _ = x_BTE.shape
        query_BHTD, key_BKTD, value_BKTD = (
            projection(x_BTE).view(batch, length, -1, self.head_width).transpose(1, 2)
            for projection in (self.q, self.k, self.v)
        )
        out_BHTD, weights_BHTS = memory.attend(query_BHTD, key_BKTD, value_BKTD, layout)
        return self.o(out_BHTD.transpose(1, 2).reshape(batch, length, -1)), weights_BHTS
