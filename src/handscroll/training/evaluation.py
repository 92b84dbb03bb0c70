"""Evaluation while training: a loss on text that isn't trained on, which checkpoint was best, and when to stop.

Knows when an evaluation is due and what follows from it. The forward passes are the trainer's, the text is the
caller's choice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from handscroll.training.accumulation import Averages
from handscroll.training.batch import Window


@dataclass(frozen=True)
class Evaluation:
    """`batches` of windows, looked at every `every` steps and after the last.

    Training stops once `patience` evaluations in a row were no better than the best before them (None: never).
    """

    batches: Sequence[Sequence[Window]]
    every: int = 100
    patience: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("patience", self.patience)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1")
        if not self.batches:
            raise ValueError("there is nothing to evaluate on: give at least one window")

    def is_due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 or step == steps

    def describe(self) -> dict[str, Any]:
        """As JSON values, for whoever resumes the run."""
        digest = hashlib.sha256()
        for batch in self.batches:
            for row in (row for window in batch for row in window):
                digest.update(np.asarray(row.ids, dtype=np.int64).tobytes())
                digest.update(b"-" if row.supervised is None else np.asarray(row.supervised, dtype=bool).tobytes())
                digest.update(b"" if row.units is None else row.units.tobytes())
            digest.update(b"|")
        return {"every": self.every, "patience": self.patience, "windows": digest.hexdigest()[:16]}


@dataclass(frozen=True)
class Evaluated:
    """What the evaluation after `step` found. `perplexity` is that of a token; `is_best`: of all evaluations so far.

    `metrics` are the objective's, such as how often a hidden token was told right.
    """

    step: int
    loss: float
    perplexity: float
    is_best: bool
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """The best evaluation so far (step 0: there was none), and how many since then were no better."""

    step: int = 0
    loss: float | None = None
    missed: int = 0

    def after(self, step: int, averages: Averages) -> tuple[Standing, Evaluated]:
        """Where a run stands once it was evaluated, and what is told of that."""
        loss = likelihood_loss(averages.loss, averages.terms, averages.metrics)
        is_best = math.isfinite(loss) and (self.loss is None or loss < self.loss)
        standing = Standing(step, loss) if is_best else Standing(self.step, self.loss, self.missed + 1)
        return standing, Evaluated(step, loss, math.exp(min(loss, 700.0)), is_best, averages.metrics)


def likelihood_loss(loss: float, terms: Mapping[str, float], metrics: Mapping[str, float]) -> float:
    """That of the likelihood alone where the objective tells it: smoothing and penalties are no quality of a model.

    Of an objective that smooths or penalizes it is the mean over batches.
    """
    return metrics.get("nll", terms.get("likelihood", terms.get("mlm", loss)))
