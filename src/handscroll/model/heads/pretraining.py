"""BERT's two heads of pretraining (arXiv 1810.04805, section 3.1): masked tokens, and whether one text follows another.

ALBERT's second head tells the order of the two (arXiv 1909.11942, section 3.1); it is built alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from handscroll.model.config import ModelConfig
from handscroll.model.heads.masked_lm import MaskedLm, MaskedLmOptions
from handscroll.model.heads.states import pooler_count
from handscroll.model.layout import Layout
from handscroll.model.pooling import pool

RELATIONS = 2


@dataclass(frozen=True)
class PretrainingOptions(MaskedLmOptions):
    """As of the masked LM alone."""

    def parameter_count(self, config: ModelConfig) -> int:
        return super().parameter_count(config) + pooler_count(config) + RELATIONS * (config.width + 1)


class PretrainingLogits(NamedTuple):
    """Of every token (B, T, V), and of how the two texts of a row belong together (B, 2).

    Of the latter the first says that the second text follows, or that the two stand in their order.
    """

    tokens_BTV: Tensor
    relation_BR: Tensor


class Pretraining(MaskedLm):
    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.pooler = nn.Linear(config.width, config.width)
        self.relation = nn.Linear(config.width, RELATIONS)

    def forward(self, hidden_BTE: Tensor, layout: Layout, embedding_VE: Tensor) -> PretrainingLogits:  # type: ignore[override]  # a head's output is its own
        relation_BR = self.relate(pool(hidden_BTE, layout, "first"))
        return PretrainingLogits(self.logits(hidden_BTE, embedding_VE), relation_BR)

    def relate(self, first_NE: Tensor) -> Tensor:
        """(N, 2), of the first token of each pair: several may stand in a row."""
        relation_NR: Tensor = self.relation(self.pooler(first_NE).tanh())
        return relation_NR
