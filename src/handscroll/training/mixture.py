"""Several packed sources mixed by weights: the share of each in the windows that are drawn.

Which source a window comes from is a closed form of (seed, number): after n windows the first source has given
floor((n * a + phase) / b), where a / b is its weight and the phase comes of the seed; those that are left are shared by
the other sources in the same way. So shares are kept at every moment, not only in the mean, nothing is consumed, and
the position in training stays two integers. Each source goes through epochs of its own, the smaller the oftener.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from handscroll.training.batch import Window
from handscroll.training.sources import PackedSource, numbers

# Weights are held as exact fractions of at most this denominator, so that no share drifts in a long run.
FINEST = 10**6


class MixedSource:
    """Windows of `parts` in shares of `weights`, which need not add up to 1.

    Raises ValueError for no parts, weights that aren't positive, and parts of different batches or windows.
    """

    def __init__(self, parts: Sequence[PackedSource], weights: Sequence[float], seed: int) -> None:
        exact = [Fraction(weight).limit_denominator(FINEST) for weight in weights]
        if not parts or len(parts) != len(weights) or min(exact) <= 0:
            raise ValueError(f"weights={[*weights]} for {len(parts)} parts: give each part a weight above 0")
        if len({(part.window, part.windows_per_batch, part.accumulation) for part in parts}) > 1:
            raise ValueError(
                "the parts of a mixture differ in window, windows_per_batch or accumulation: make them equal"
            )
        self.parts, self.seed = list(parts), seed
        self.window, self.windows_per_batch = parts[0].window, parts[0].windows_per_batch
        self.accumulation = parts[0].accumulation
        # Of what is left by the parts before, each part's share; the last takes all.
        self._shares = [share / sum(exact[place:]) for place, share in enumerate(exact)]
        rng = np.random.default_rng([seed, len(parts)])
        self._phases = [int(rng.random() * share.denominator) for share in self._shares]

    def windows(self, step: int, micro: int) -> list[Window]:
        return [self.numbered(number) for number in numbers(self, step, micro)]

    def numbered(self, number: int) -> Window:
        """The window `number` (0-based) of the endless mixture. Pure."""
        part, place = self.drawn(number)
        return self.parts[part].numbered(place)

    def drawn(self, number: int) -> tuple[int, int]:
        """Which part gives the window `number`, and which of that part's own windows it is."""
        for part, (share, phase) in enumerate(zip(self._shares, self._phases, strict=True)):
            before, after = ((n * share.numerator + phase) // share.denominator for n in (number, number + 1))
            if after > before:
                return part, before
            number -= before
        raise AssertionError("the last part takes all that is left")

    def identity(self) -> str:
        content = [self.seed, [str(share) for share in self._shares], [part.identity() for part in self.parts]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
