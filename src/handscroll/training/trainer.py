"""One training step: windows in, one update out; and a look at windows that aren't trained on.

Knows the order of things within a step and nothing else: what is learnt is the objective's, from what the source's, by
which rule the optimizers'. Steps in a row, logs and checkpoints are in `loop.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch

from handscroll.training import checkpoint, parallel
from handscroll.training.accumulation import Accumulator, Averages, Tally
from handscroll.training.ahead import Ahead
from handscroll.training.batch import Batch, Window
from handscroll.training.mixture import MixedSource
from handscroll.training.objectives import Models, Objective, check_model
from handscroll.training.optimizers import AdamWOptions, OptimizerOptions, Optimizers
from handscroll.training.precision import SMALLEST_SCALE, autocast, check_precision, loss_scaler
from handscroll.training.randomness import generator, seeded
from handscroll.training.schedule import Cosine, Schedule
from handscroll.training.sources import Identified, PackedSource, Source
from handscroll.training.statistics import StepStatistics

# What a seed is for stands behind its numbers, so that no two streams are alike.
EVALUATED, DROPPED = 1, 2


@dataclass(frozen=True)
class TrainOptions:
    """How long and by which rule to train. Gradients are clipped to a norm of `clip` (0: never).

    A step is `accumulation` micro batches, of all processes together. A checkpoint is written every `checkpoint_every`
    steps and after the last; the newest `keep` stay. `precision` as in `precision.py`.
    """

    steps: int
    seed: int = 0
    accumulation: int = 1
    optimizer: OptimizerOptions = field(default_factory=AdamWOptions)
    schedule: Schedule = field(default_factory=Cosine)
    clip: float = 1.0
    activation_checkpointing: bool = False
    checkpoint_every: int = 100
    keep: int = 2
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: training needs at least 1")
        for name in ("seed", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative: give 0 or more")


class Update(NamedTuple):
    """What one step did. A gradient norm of 0: it overflowed in float16, and nothing moved."""

    loss: float
    terms: dict[str, float]
    metrics: dict[str, float]
    tokens: int
    learning_rate: float
    grad_norm: float
    waited: float


class Trainer:
    """Models, objective, source and optimizers, and the one step that joins them."""

    def __init__(self, models: Models, objective: Objective, source: Source, options: TrainOptions):
        if isinstance(source, PackedSource | MixedSource) and source.accumulation != options.accumulation:
            raise ValueError(
                f"accumulation={options.accumulation} but the source has {source.accumulation}: make them equal"
            )
        check_model(objective, models["model"].config)
        self.models, self.objective, self.source, self.options = models, objective, source, options
        self.micro_batches = parallel.share(options.accumulation)
        self.optimizers = Optimizers(models, options.optimizer)
        self.parameters = list(self.optimizers.parameters.values())
        self.device = next(iter(models.values())).device
        check_precision(options.precision, self.device)
        self.scaler = loss_scaler(options.precision, self.device)
        self.statistics = StepStatistics(models, options.accumulation, options.precision)
        self.ahead: Ahead[Batch] = Ahead()
        for model in models.values():
            model.activation_checkpointing = options.activation_checkpointing

    @cached_property
    def run(self) -> dict[str, Any]:
        """What this run is, as JSON values: all that decides its result."""
        return {
            "options": checkpoint.describe(self.options),
            "objective": checkpoint.describe(self.objective),
            "source": self.source.identity() if isinstance(self.source, Identified) else type(self.source).__name__,
            "models": {name: checkpoint.describe(model.config) for name, model in self.models.items()},
        }

    def step(self, step: int) -> Update:
        """One update of the models (mutates). Raises ValueError before anything moves if the loss is not finite."""
        averages, tokens, waited = self.accumulate(step)
        grad_norm = self.clip()
        self.check(step, averages.loss, grad_norm)
        rate = self.move(self.options.schedule.multiplier(step, self.options.steps), grad_norm)
        grad_norm = grad_norm if math.isfinite(grad_norm) else 0.0
        return Update(averages.loss, averages.terms, averages.metrics, tokens, rate, grad_norm, waited)

    def accumulate(self, step: int) -> tuple[Averages, int, float]:
        """Leaves the gradient of all micro batches in the parameters.

        Returns their means, their real tokens, and the seconds that the models waited for them.
        """
        for model in self.models.values():
            model.train()
        self.statistics.clear()
        accumulator = Accumulator(self.parameters, self.options.accumulation, self.scaler.scale)
        tokens, waited = 0, 0.0
        for micro in self.micro_batches:
            started = time.perf_counter()
            batch = self.ahead.take(self.batch, step, micro)
            waited += time.perf_counter() - started
            tokens += batch.real_tokens
            # A seed a micro batch: what is dropped doesn't depend on which process computes it.
            with seeded(self.options.seed, step, micro, DROPPED, device=self.device):
                with autocast(self.options.precision, self.device):
                    loss = self.objective.loss(self.models, batch.to(self.device))
                self.statistics.add(loss)
                self.begin_after(step, micro)
                accumulator.add(loss)
        return accumulator.finish(), sum(parallel.gather(tokens)), waited

    def batch(self, step: int, micro: int) -> Batch:
        """A micro batch: a pure function of (seed, step, micro) and, where the model makes rows, of the model."""
        return self._collate(self.source.windows(step, micro), generator(self.options.seed, step, micro))

    def begin_after(self, step: int, micro: int) -> None:
        """Lets the batch after this one be made meanwhile, unless it is made with the models that this step moves."""
        is_last = micro + 1 not in self.micro_batches
        step, micro = (step + 1, self.micro_batches.start) if is_last else (step, micro + 1)
        if step < self.options.steps and not self.objective.needs.models:
            self.ahead.begin(self.batch, step, micro)

    def clip(self) -> float:
        """The gradient's norm before clipping; scales gradients down to `clip` where it is larger (mutates them)."""
        for optimizer in self.optimizers.optimizers:
            self.scaler.unscale_(optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.options.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.options.clip, norm)
        return float(norm)

    def check(self, step: int, loss: float, grad_norm: float) -> None:
        may_overflow = self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_SCALE
        if not (math.isfinite(loss) and (math.isfinite(grad_norm) or may_overflow)):
            raise ValueError(
                f"step {step + 1}: loss {loss}, gradient norm {grad_norm}. The weights are those of the step before. "
                "Try a lower learning rate, a longer warm-up, or clip=1.0, and look at the data of this step"
            )

    def move(self, multiplier: float, grad_norm: float) -> float:
        """Updates weights and running statistics unless the gradient overflowed (mutates).

        Returns the first rule's learning rate.
        """
        rate = self.optimizers.step(multiplier, moves=math.isfinite(grad_norm))
        if math.isfinite(grad_norm):
            self.statistics.apply()
        self.scaler.update()
        return rate

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Sequence[Window]]) -> Averages:
        """Means over windows that aren't trained on. Changes nothing, randomness included; each process takes some."""
        for model in self.models.values():
            model.eval()
        tally, seed = Tally(len(batches)), self.options.seed
        with seeded(seed, 0, 0, EVALUATED, device=self.device), autocast(self.options.precision, self.device):
            for number in range(parallel.rank(), len(batches), parallel.size()):
                batch = self._collate(batches[number], generator(seed, 0, number, EVALUATED))
                tally.add(self.objective.loss(self.models, batch.to(self.device)))
        tally.share()
        return tally.averages()

    def _collate(self, windows: Sequence[Window], rng: torch.Generator) -> Batch:
        return self.objective.make_batch([self.objective.prepare(self.models, rows, rng) for rows in windows], rng)
