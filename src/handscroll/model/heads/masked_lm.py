"""BERT's head of masked language modelling (arXiv 1810.04805, appendix A.2): a layer of its own before the vocabulary.

ALBERT's is the same with an embedding narrower than the model (arXiv 1909.11942, section 3.1): the layer brings the
hidden states to the embedding's width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from handscroll.model.config import ModelConfig, chosen
from handscroll.model.feedforward import PLAIN
from handscroll.model.heads.vocabulary import VocabularyHead
from handscroll.model.slots import VocabularyOptions


@dataclass(frozen=True)
class MaskedLmOptions(VocabularyOptions):
    """`activation` of the layer before the vocabulary, as the plain feed-forwards have them."""

    activation: str = "gelu"

    def __post_init__(self) -> None:
        chosen("activation", self.activation, PLAIN)

    @property
    def has_bias(self) -> bool:
        return True

    def feature_width(self, config: ModelConfig) -> int:
        return config.embedding_width

    def parameter_count(self, config: ModelConfig) -> int:
        return super().parameter_count(config) + (config.width + 3) * config.embedding_width


class MaskedLm(VocabularyHead):
    """norm(activation(dense(x))), then the linear map with a bias. The norm is LayerNorm, whatever the model's is."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        options = config.head
        assert isinstance(options, MaskedLmOptions)
        self.activation = PLAIN[options.activation]
        self.dense = nn.Linear(config.width, config.embedding_width)
        self.norm = nn.LayerNorm(config.embedding_width, config.norm_eps)

    def features(self, hidden_BTE: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.activation(self.dense(hidden_BTE)))
        return normed
