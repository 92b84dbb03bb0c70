"""Labels of whole texts and of single tokens: one linear map to logits.

What it reads is dropped out at `residual_dropout`'s share in training, as BERT's is by default.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from handscroll.model.config import ModelConfig, chosen
from handscroll.model.heads.states import pooler_count
from handscroll.model.layout import Layout
from handscroll.model.pooling import POOLINGS, pool
from handscroll.model.slots import HeadOptions


@dataclass(frozen=True)
class TokenClassificationOptions(HeadOptions):
    """`num_labels` logits of every token, as for named entities."""

    num_labels: int = 2
    bias: bool = True

    def __post_init__(self) -> None:
        check_labels(self.num_labels)

    def parameter_count(self, config: ModelConfig) -> int:
        return self.num_labels * (config.width + int(self.bias))


@dataclass(frozen=True)
class SequenceClassificationOptions(TokenClassificationOptions):
    """`num_labels` logits of a text, from the `pooling` of its hidden states ("first", "mean", "last").

    `pooler`: a layer with tanh between the two, as in BERT.
    """

    pooling: str = "first"
    pooler: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen("pooling", self.pooling, dict.fromkeys(POOLINGS))

    def parameter_count(self, config: ModelConfig) -> int:
        return super().parameter_count(config) + (pooler_count(config) if self.pooler else 0)


class TokenClassification(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        options = config.head
        assert isinstance(options, TokenClassificationOptions)
        self.dropout = nn.Dropout(config.residual_dropout)
        self.classifier = nn.Linear(config.width, options.num_labels, bias=options.bias)

    def forward(self, hidden_BTE: Tensor, layout: Layout, embedding_VE: Tensor) -> Tensor:
        """(B, T, labels)."""
        logits_BTL: Tensor = self.classifier(self.dropout(hidden_BTE))
        return logits_BTL


class SequenceClassification(TokenClassification):
    def __init__(self, config: ModelConfig):
        super().__init__(config)
        options = config.head
        assert isinstance(options, SequenceClassificationOptions)
        self.pooling = options.pooling
        self.pooler = nn.Linear(config.width, config.width) if options.pooler else None

    def forward(self, hidden_BTE: Tensor, layout: Layout, embedding_VE: Tensor) -> Tensor:
        """(B, labels)."""
        pooled_BE = pool(hidden_BTE, layout, self.pooling)
        if self.pooler is not None:
            pooled_BE = self.pooler(pooled_BE).tanh()
        logits_BL: Tensor = self.classifier(self.dropout(pooled_BE))
        return logits_BL


def check_labels(num_labels: int) -> None:
    if num_labels < 1:
        raise ValueError(f"num_labels={num_labels}: a classifier tells at least 1 label")
