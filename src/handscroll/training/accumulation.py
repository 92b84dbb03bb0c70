"""Gradients of a step's micro batches as if they were one batch: every token weighs the same wherever it was computed.

Means of micro batches would weigh a token by how few others share its micro batch. So sums are differentiated and
divided once, at the end, by the count of the whole accumulated batch (what Unsloth and Hugging Face corrected in 2024,
https://huggingface.co/blog/gradient_accumulation).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from handscroll.training.objectives.objective import Loss, Term


class Averages(NamedTuple):
    """Means over a whole step: the weighted total, each term's, each metric's."""

    loss: float
    terms: dict[str, float]
    metrics: dict[str, float]


class Accumulator:
    """Collects the losses of one step; `finish` leaves the averaged gradient in `parameter.grad`.

    One micro batch, or one term, needs one backward pass per micro batch. Several terms over several micro batches have
    counts of their own, unknown until the last, so that each term's gradient is kept apart until then.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], micro_batches: int):
        self.parameters = parameters
        self.micro_batches = micro_batches
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor | int] = defaultdict(int)
        self._weights: dict[str, float] = {}
        self._metrics: dict[str, float] = defaultdict(float)
        self._gradients: dict[str, list[Tensor | None]] = {}

    def add(self, loss: Loss) -> None:
        """Differentiates one micro batch (mutates; the loss's graph is freed)."""
        for name, term in loss.terms.items():
            self._sums[name] = self._sums.get(name, 0) + term.sum.detach().float()
            self._counts[name] += term.count
            self._weights[name] = term.weight
        for name, value in loss.metrics.items():
            self._metrics[name] += value / self.micro_batches
        if self.micro_batches == 1:
            _total(loss.terms).backward()  # type: ignore[no-untyped-call]
            return
        for place, (name, term) in enumerate(loss.terms.items(), start=1):
            _put(self.parameters, self._gradients.get(name))
            term.sum.backward(retain_graph=place < len(loss.terms))  # type: ignore[no-untyped-call]
            self._gradients[name] = [parameter.grad for parameter in self.parameters]

    def finish(self) -> Averages:
        """Divides by the counts of all micro batches (mutates the parameters' gradients)."""
        factors = {name: weight / _at_least_one(self._counts[name]) for name, weight in self._weights.items()}
        if self.micro_batches > 1:
            self._divide(factors)
        terms = {name: float(total / _at_least_one(self._counts[name])) for name, total in self._sums.items()}
        loss = sum(self._weights[name] * mean for name, mean in terms.items())
        return Averages(loss, terms, dict(self._metrics))

    @torch.no_grad()
    def _divide(self, factors: Mapping[str, Tensor | float]) -> None:
        totals: list[Tensor | None] = [None] * len(self.parameters)
        for name, gradients in self._gradients.items():
            for place, (total, gradient) in enumerate(zip(totals, gradients, strict=True)):
                if gradient is not None:
                    gradient.mul_(factors[name])
                    totals[place] = gradient if total is None else total.add_(gradient)
        _put(self.parameters, totals)


def _total(terms: Mapping[str, Term]) -> Tensor:
    return torch.stack([term.weight * term.sum / _at_least_one(term.count) for term in terms.values()]).sum()


def _put(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None] | None) -> None:
    for index, parameter in enumerate(parameters):
        parameter.grad = gradients[index] if gradients is not None else None


def _at_least_one(count: Tensor | int) -> Tensor | int:
    """A term that nothing was counted for has a sum of 0, and 0 is its mean."""
    return max(1, count) if isinstance(count, int) else count.clamp(min=1)
