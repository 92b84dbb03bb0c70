"""What a training run tells its caller after every step, and the clock that it reads for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from handscroll.training.evaluation import Evaluated

RECENT_STEPS = 20


@dataclass(frozen=True)
class Progress:
    """A finished step. `step` counts from 1; losses are means over all supervised tokens of the step.

    `tokens` are real ones, never padding, since the run's start; `seconds` is wall-clock time, earlier sessions of a
    resumed run included. `tokens_per_second` and `eta_seconds` speak of the last 20 steps' pace, and `waiting` of the
    share of their time in which the models waited for windows. `evaluation` is the last
    one, which may be that of an earlier step.
    """

    step: int
    steps: int
    loss: float
    terms: Mapping[str, float]
    metrics: Mapping[str, float]
    tokens: int
    tokens_per_second: float
    waiting: float
    learning_rate: float
    grad_norm: float
    seconds: float
    eta_seconds: float
    evaluation: Evaluated | None = None


class _Step(NamedTuple):
    """A step's own seconds, those of them in which it waited, and the seconds since the step before."""

    tokens: int
    seconds: float
    waited: float
    pace: float


class Clock:
    """Wall-clock time of a run across its sessions, and its recent pace."""

    def __init__(self, seconds: float = 0.0):
        self._start = time.perf_counter() - seconds
        self._last = self.seconds
        self._recent: deque[_Step] = deque(maxlen=RECENT_STEPS)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def tick(self, tokens: int, step_seconds: float, waited: float) -> None:
        """A step is done: it trained `tokens` in `step_seconds`, `waited` of them for windows (mutates).

        Checkpoints and evaluations between steps delay the end, so they count there; they are no part of the speed.
        """
        now = self.seconds
        self._recent.append(_Step(tokens, step_seconds, waited, now - self._last))
        self._last = now

    @property
    def tokens_per_second(self) -> float:
        return sum(step.tokens for step in self._recent) / self._step_seconds

    @property
    def waiting(self) -> float:
        return sum(step.waited for step in self._recent) / self._step_seconds

    @property
    def _step_seconds(self) -> float:
        return max(1e-9, sum(step.seconds for step in self._recent))

    def eta(self, steps_left: int) -> float:
        """Seconds that `steps_left` steps will take at the recent pace."""
        return steps_left * sum(step.pace for step in self._recent) / max(1, len(self._recent))
