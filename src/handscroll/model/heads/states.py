"""No task at all: the hidden states as they are, and BERT's pooler beside them where a checkpoint has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.pooling import pool
from handscroll.model.slots import HeadOptions


@dataclass(frozen=True)
class StatesOptions(HeadOptions):
    """`pooler`: whether a layer reads the first token for the whole text (arXiv 1810.04805, section 3.1)."""

    pooler: bool = False

    def parameter_count(self, config: ModelConfig) -> int:
        return pooler_count(config) if self.pooler else 0


class Encoded(NamedTuple):
    """Hidden states (B, T, E), and tanh(pooler(first token)) (B, E) where there is a pooler."""

    hidden_BTE: Tensor
    pooled_BE: Tensor | None


class States(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        assert isinstance(config.head, StatesOptions)
        self.pooler = nn.Linear(config.width, config.width) if config.head.pooler else None

    def forward(self, hidden_BTE: Tensor, layout: Layout, embedding_VE: Tensor) -> Encoded:
        if self.pooler is None:
            return Encoded(hidden_BTE, None)
        return Encoded(hidden_BTE, self.pooler(pool(hidden_BTE, layout, "first")).tanh())


def pooler_count(config: ModelConfig) -> int:
    """Numbers of a pooler: E^2 + E."""
    return config.width * (config.width + 1)
