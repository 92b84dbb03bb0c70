"""Gradients of a step's micro batches as if they were one batch: every token weighs the same wherever it was computed.

Means of micro batches would weigh a token by how few others share its micro batch. So sums are differentiated and
divided once, at the end, by the count of the whole accumulated batch (what Unsloth and Hugging Face corrected in 2024,
https://huggingface.co/blog/gradient_accumulation), that of all processes (`parallel.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from handscroll.training import parallel
from handscroll.training.objectives.objective import Loss, Share, Term


class Averages(NamedTuple):
    """Means over a whole step: the weighted total, each term's, each metric's."""

    loss: float
    terms: dict[str, float]
    metrics: dict[str, float]


class Tally:
    """Sums and counts of losses, without their graphs. `batches` is how many all processes will add."""

    def __init__(self, batches: int):
        self.batches = batches
        self.sums: dict[str, Tensor | float] = {}
        self.counts: dict[str, Tensor | int] = defaultdict(int)
        self.weights: dict[str, float] = {}
        self.metrics: dict[str, float] = defaultdict(float)
        self.shares: dict[str, Share] = {}

    def add(self, loss: Loss) -> None:
        for name, term in loss.terms.items():
            self.sums[name] = self.sums.get(name, 0) + term.sum.detach().float()
            self.counts[name] += term.count
            self.weights[name] = term.weight
        for name, value in loss.metrics.items():
            if isinstance(value, Share):
                self._add_share(name, value)
            else:
                self.metrics[name] += value / self.batches

    def share(self) -> None:
        """Adds what the other processes have (mutates); their terms may be others than this one's."""
        if parallel.size() == 1:
            return
        terms = {name: (float(self.sums[name]), int(self.counts[name]), self.weights[name]) for name in self.sums}
        everyone = parallel.gather((terms, dict(self.metrics), self.shares))
        self.sums, self.counts, self.metrics = defaultdict(float), defaultdict(int), defaultdict(float)
        self.shares = {}
        for found, metrics, shares in everyone:
            for name, (total, count, weight) in found.items():
                self.sums[name] += total
                self.counts[name] += count
                self.weights[name] = weight
            for name, value in metrics.items():
                self.metrics[name] += value
            for name, share in shares.items():
                self._add_share(name, share)

    def averages(self) -> Averages:
        terms = {name: float(total / _at_least_one(self.counts[name])) for name, total in self.sums.items()}
        loss = sum(self.weights[name] * mean for name, mean in terms.items())
        shares = {name: share.some / max(1, share.all) for name, share in self.shares.items()}
        return Averages(loss, terms, {**self.metrics, **shares})

    def _add_share(self, name: str, share: Share) -> None:
        some, every = self.shares.get(name, Share(0, 0))
        self.shares[name] = Share(some + share.some, every + share.all)


class Accumulator:
    """Collects the losses of one step; `finish` leaves the averaged gradient in `parameter.grad`.

    One micro batch, or one term, needs one backward pass per micro batch. Several terms over several micro batches have
    counts of their own, unknown until the last, so that each term's gradient is kept apart until then, but for terms
    that share one tensor as their count. `scale` is applied to what is differentiated.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        micro_batches: int,
        scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    ):
        self.parameters = parameters
        self.micro_batches = micro_batches
        self._scale = scale
        self._tally = Tally(micro_batches)
        self._gradients: dict[str, list[Tensor | None]] = {}

    def add(self, loss: Loss) -> None:
        """Differentiates one micro batch (mutates; the loss's graph is freed)."""
        self._tally.add(loss)
        if self.micro_batches == 1:
            self._scale(_total(loss.terms)).backward()  # type: ignore[no-untyped-call]
            return
        groups = _groups(loss.terms)
        for place, (name, total) in enumerate(groups.items(), start=1):
            _put(self.parameters, self._gradients.get(name))
            self._scale(total).backward(retain_graph=place < len(groups))  # type: ignore[no-untyped-call]
            self._gradients[name] = [parameter.grad for parameter in self.parameters]

    def finish(self) -> Averages:
        """Divides by the counts of all micro batches (mutates the parameters' gradients)."""
        self._tally.share()
        if self.micro_batches > 1:
            self._divide()
        parallel.add_gradients(self.parameters)
        return self._tally.averages()

    @torch.no_grad()
    def _divide(self) -> None:
        totals: list[Tensor | None] = [None] * len(self.parameters)
        for name, gradients in self._gradients.items():
            for place, (total, gradient) in enumerate(zip(totals, gradients, strict=True)):
                if gradient is not None:
                    gradient.mul_(1 / _at_least_one(self._tally.counts[name]))
                    totals[place] = gradient if total is None else total.add_(gradient)
        _put(self.parameters, totals)


def _groups(terms: Mapping[str, Term]) -> dict[str, Tensor]:
    """Weighted sums that are divided by one count each, under the name of the first of its terms."""
    first: dict[int, str] = {}
    totals: dict[str, Tensor] = {}
    for name, term in terms.items():
        group = first.setdefault(id(term.count), name) if isinstance(term.count, Tensor) else name
        totals[group] = totals.get(group, 0) + term.weight * term.sum
    return totals


def _total(terms: Mapping[str, Term]) -> Tensor:
    return torch.stack([term.weight * term.sum / _at_least_one(term.count) for term in terms.values()]).sum()


def _put(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None] | None) -> None:
    for index, parameter in enumerate(parameters):
        parameter.grad = gradients[index] if gradients is not None else None


def _at_least_one(count: Tensor | int) -> Tensor | int:
    """A term that nothing was counted for has a sum of 0, and 0 is its mean."""
    return max(1, count) if isinstance(count, int) else count.clamp(min=1)
