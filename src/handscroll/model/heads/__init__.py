"""The head slot: what becomes of the last hidden states.

A head is a module `forward(hidden_BTE, layout, embedding_VE)`; what it gives is its own: logits of every token, of a
text, of where an answer begins and ends. The embedding's table is there for heads that share it.

Heads over the vocabulary (`vocabulary.py`) have two steps, `features` and a linear map, so that a loss may take the
second one for a few tokens at a time (`kernels/likelihood.py`). Only they can be trained to predict tokens, and only
they can generate or fill in.

To add one: write `heads/NAME.py` with its options, a kind of `HeadOptions`, and its module, and one line in each
dict below;
`families/` says how a checkpoint names it.
"""

from typing import Any

from torch import nn

from handscroll.model.config import ModelConfig
from handscroll.model.heads.classification import (
    SequenceClassification,
    SequenceClassificationOptions,
    TokenClassification,
    TokenClassificationOptions,
)
from handscroll.model.heads.masked_lm import MaskedLm, MaskedLmOptions
from handscroll.model.heads.normalized import NormalizedHead, NormalizedHeadOptions
from handscroll.model.heads.pretraining import Pretraining, PretrainingLogits, PretrainingOptions
from handscroll.model.heads.scalar import Scalar, ScalarOptions
from handscroll.model.heads.span import Span, SpanLogits, SpanOptions
from handscroll.model.heads.states import Encoded, States, StatesOptions
from handscroll.model.heads.vocabulary import LmHead, VocabularyHead
from handscroll.model.slots import HeadOptions, LmHeadOptions

HEADS: dict[type[HeadOptions], Any] = {
    LmHeadOptions: LmHead,
    NormalizedHeadOptions: NormalizedHead,
    MaskedLmOptions: MaskedLm,
    PretrainingOptions: Pretraining,
    SequenceClassificationOptions: SequenceClassification,
    TokenClassificationOptions: TokenClassification,
    SpanOptions: Span,
    ScalarOptions: Scalar,
    StatesOptions: States,
}

# By the names that recipes and Handscroll's own folders have for them.
HEAD_KINDS: dict[str, type[HeadOptions]] = {
    "lm": LmHeadOptions,
    "normalized": NormalizedHeadOptions,
    "masked_lm": MaskedLmOptions,
    "pretraining": PretrainingOptions,
    "sequence_classification": SequenceClassificationOptions,
    "token_classification": TokenClassificationOptions,
    "span": SpanOptions,
    "scalar": ScalarOptions,
    "states": StatesOptions,
}


def make_head(config: ModelConfig) -> nn.Module:
    head: nn.Module = HEADS[type(config.head)](config)
    return head


def head_name(options: HeadOptions) -> str:
    """A head as recipes name it."""
    return next(name for name, kind in HEAD_KINDS.items() if kind is type(options))


__all__ = [
    "HEADS",
    "HEAD_KINDS",
    "Encoded",
    "LmHeadOptions",
    "MaskedLmOptions",
    "NormalizedHeadOptions",
    "PretrainingLogits",
    "PretrainingOptions",
    "ScalarOptions",
    "SequenceClassificationOptions",
    "SpanLogits",
    "SpanOptions",
    "StatesOptions",
    "TokenClassificationOptions",
    "VocabularyHead",
    "head_name",
    "make_head",
]
