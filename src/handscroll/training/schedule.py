"""Learning-rate schedules: what the peak rate is multiplied by, a pure function of the step and of all steps.

Nothing is counted or stored, so a resumed run needs only its step number. A time budget is turned into steps before
training starts; schedules know steps only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    def multiplier(self, step: int, steps: int) -> float:
        """The factor in [0, 1] of step `step` (0-based) of `steps`."""


def warm(step: int, warmup: int) -> float:
    """Linear warm-up: (step + 1) / warmup until it reaches 1, so that the first step already moves."""
    return min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0


@dataclass(frozen=True)
class Constant:
    """Warm-up, then the peak rate to the end."""

    warmup: int = 0

    def multiplier(self, step: int, steps: int) -> float:
        return warm(step, self.warmup)


@dataclass(frozen=True)
class Cosine:
    """Warm-up, then half a cosine from 1 down to `final` (SGDR without restarts, arXiv 1608.03983, equation 5)."""

    warmup: int = 0
    final: float = 0.1

    def multiplier(self, step: int, steps: int) -> float:
        if step < self.warmup:
            return warm(step, self.warmup)
        progress = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class WarmupStableDecay:
    """Warm-up, the peak rate, then a linear fall to `final` over the last `decay` share of all steps.

    From MiniCPM (arXiv 2404.06395, section 4): any checkpoint of the stable part can be continued or cooled down. The
    last step still has a rate above `final`, for a step at rate zero would learn nothing.
    """

    warmup: int = 0
    decay: float = 0.2
    final: float = 0.0

    def multiplier(self, step: int, steps: int) -> float:
        falling = round(self.decay * steps)
        left = steps - step
        if falling and left <= falling:
            # A run shorter than warm-up and decay together must not jump up where they meet.
            return min(warm(step, self.warmup), self.final + (1 - self.final) * left / (falling + 1))
        return warm(step, self.warmup)


SCHEDULES = {"constant": Constant, "cosine": Cosine, "wsd": WarmupStableDecay}
