"""How the next token is picked from logits: greedy, or at a temperature from a seed.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy: the likeliest token. Above, logits are divided by it; a token is drawn by `seed`."""

    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: a finite number, 0 (greedy) or more")


class Sampler:
    """Draws tokens row by row. Each row has its own random stream, so a batch gives what each prompt gives alone."""

    def __init__(self, options: Sampling, rows: int):
        self.options = options
        self.generators = [torch.Generator().manual_seed(options.seed) for _ in range(rows)]

    def pick(self, logits_BV: Tensor, rows: Sequence[int]) -> list[int]:
        """One token id per row of logits; `rows` says whose random stream each one uses (mutates the streams)."""
        if self.options.temperature == 0:
            picked: list[int] = logits_BV.argmax(dim=-1).tolist()
            return picked
        probabilities_BV = (logits_BV.float() / self.options.temperature).softmax(dim=-1).cpu()
        return [
            int(torch.multinomial(probabilities_V, 1, generator=self.generators[row]))
            for row, probabilities_V in zip(rows, probabilities_BV, strict=True)
        ]
