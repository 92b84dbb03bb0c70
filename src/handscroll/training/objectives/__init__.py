"""Objectives: what a batch is trained towards.

An objective decides what is supervised and with what loss; the trainer decides when, divides sums by counts and moves
weights. Objectives are frozen dataclasses of their options, so that they can be compared on resume and composed.

`SkippedPositions` wraps any of them. What several share: `hiding.py` (which tokens, by 80/10/10) under `masked_lm` and,
with `unit_hiding.py`, `ernie`; `pairs.py` and `conversations.py`, what is exchanged within a batch; `spans.py` and
`blanks.py`, what `glm` hides and how it is told; `router.py`, the losses of experts.

To add one: write `objectives/NAME.py` with a frozen dataclass that has the three methods of `Objective`, its paper in
the docstring, and one line in `OBJECTIVES`; the contract tests in `tests/training/` run over every entry.
"""

from typing import Any

from handscroll.training.objectives.causal_lm import CausalLM
from handscroll.training.objectives.ernie import Ernie
from handscroll.training.objectives.glm import GLM
from handscroll.training.objectives.masked_lm import MaskedLM
from handscroll.training.objectives.objective import (
    Loss,
    Models,
    Needs,
    Objective,
    Share,
    Term,
    check_model,
    text_window,
)
from handscroll.training.objectives.prefix_lm import PrefixLM
from handscroll.training.objectives.sft import SFT
from handscroll.training.objectives.skipped_positions import SkippedPositions

OBJECTIVES: dict[str, type[Any]] = {
    "causal_lm": CausalLM,
    "sft": SFT,
    "masked_lm": MaskedLM,
    "prefix_lm": PrefixLM,
    "glm": GLM,
    "ernie": Ernie,
}

__all__ = [
    "GLM",
    "OBJECTIVES",
    "SFT",
    "CausalLM",
    "Ernie",
    "Loss",
    "MaskedLM",
    "Models",
    "Needs",
    "Objective",
    "PrefixLM",
    "Share",
    "SkippedPositions",
    "Term",
    "check_model",
    "text_window",
]
