"""Where in a text an answer begins and where it ends (BERT on SQuAD, arXiv 1810.04805, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.slots import HeadOptions

ENDS = 2


@dataclass(frozen=True)
class SpanOptions(HeadOptions):
    """No options."""

    def parameter_count(self, config: ModelConfig) -> int:
        return ENDS * (config.width + 1)


class SpanLogits(NamedTuple):
    """Of every token being the answer's first and its last, (B, T) each; -inf at padding."""

    start_BT: Tensor
    end_BT: Tensor


class Span(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.ends = nn.Linear(config.width, ENDS)

    def forward(self, hidden_BTE: Tensor, layout: Layout, embedding_VE: Tensor) -> SpanLogits:
        # A softmax over a row's places must give none to padding.
        logits_BT2 = self.ends(hidden_BTE).masked_fill((layout.index_BT < 0)[..., None], float("-inf"))
        return SpanLogits(*logits_BT2.unbind(-1))
