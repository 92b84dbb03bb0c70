"""Texts that are judged as a whole, each at its own first token: which second part follows, which conversation is real.

What is judged, and by what label, is an objective's business. Needs the head of BERT's pretraining.

N texts, E model width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from handscroll.model import ModelConfig, Transformer
from handscroll.model.heads import PretrainingOptions, head_name
from handscroll.model.heads.pretraining import Pretraining
from handscroll.training.objectives.objective import Share, Term


def check_judge(config: ModelConfig, option: str, judged: str, kinds: str, them: str) -> None:
    """ValueError for a model that can't do what `option` asks for: tell `judged`, and tell `kinds` by segments.

    `them`: what segments, or else [SEP] alone, tell apart.
    """
    if not isinstance(config.head, PretrainingOptions):
        raise ValueError(
            f"{option}=true, and head={head_name(config.head)} doesn't tell {judged}: use head=pretraining, or "
            f"{option}=false"
        )
    if config.embedding.segments == 1:
        raise ValueError(f"segments=1: {kinds} 2; use segments=2, or 0 to tell {them} by [SEP] alone")


def judge(model: Transformer, first_NE: Tensor, label_N: Tensor) -> tuple[Term, Share]:
    """The loss of judging each text by its first token, and how often it is right."""
    assert isinstance(model.head, Pretraining)
    logits_N2 = model.head.relate(first_NE).float()
    total = F.cross_entropy(logits_N2, label_N, reduction="sum")
    return Term(total, len(label_N)), Share(int((logits_N2.argmax(-1) == label_N).sum()), len(label_N))
