"""Heads over the vocabulary: features of the hidden states, then one linear map, whose matrix may be the embedding's.

Letters: B batch, T tokens, E model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from handscroll.model.columns import linear
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.slots import HeadOptions, VocabularyOptions


class VocabularyHead(nn.Module):
    """The linear map; a tied one has no `weight` of its own."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        options = vocabulary_options(config.head)
        width = options.feature_width(config)
        self.weight = None if config.tied_embeddings else nn.Parameter(torch.empty(config.vocab_size, width))
        self.bias = nn.Parameter(torch.empty(config.vocab_size)) if options.has_bias else None

    def features(self, hidden_BTE: Tensor) -> Tensor:
        """What the linear map reads; of the hidden states of any tokens, in any shape (..., E)."""
        return hidden_BTE

    def matrix(self, embedding_VE: Tensor) -> Tensor:
        """What the linear map multiplies by; gradients flow through it to the weights."""
        return embedding_VE if self.weight is None else self.weight

    def logits(self, hidden_BTE: Tensor, embedding_VE: Tensor) -> Tensor:
        """(..., E) -> (..., V)."""
        return linear(self.features(hidden_BTE), self.matrix(embedding_VE), self.bias)

    def forward(self, hidden_BTE: Tensor, layout: Layout, embedding_VE: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self.logits(hidden_BTE, embedding_VE)


class LmHead(VocabularyHead):
    """The next token's logits, straight from the hidden states."""


def vocabulary_options(options: HeadOptions) -> VocabularyOptions:
    assert isinstance(options, VocabularyOptions)
    return options
