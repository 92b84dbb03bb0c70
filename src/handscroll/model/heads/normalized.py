"""Baichuan 2's NormHead (arXiv 2309.10305, section 2.5): each row of the head's matrix divided by its length.

A logit is then the hidden state's projection onto a token's direction: rare tokens' rows, which shrink in training,
don't unbalance it. The rows stay as long as training makes them; they are divided whenever they are used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from handscroll.model.config import ModelConfig
from handscroll.model.heads.vocabulary import VocabularyHead
from handscroll.model.slots import VocabularyOptions


@dataclass(frozen=True)
class NormalizedHeadOptions(VocabularyOptions):
    """No options."""


class NormalizedHead(VocabularyHead):
    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self._divided: tuple[tuple[int, int], Tensor] | None = None

    def matrix(self, embedding_VE: Tensor) -> Tensor:
        """Where no gradient is wanted the division is done once for as long as the weights stay as they are."""
        weight_VE = super().matrix(embedding_VE)
        if (torch.is_grad_enabled() and weight_VE.requires_grad) or weight_VE.is_inference():
            return F.normalize(weight_VE)
        state = (weight_VE.data_ptr(), weight_VE._version)
        if self._divided is None or self._divided[0] != state:
            self._divided = (state, F.normalize(weight_VE.detach()))
        return self._divided[1]
