"""The training loop: windows in, one update a step, progress out.

Knows the order of things and nothing else: what is learnt is the objective's, from what the source's, by which rule the
optimizers'. It is a generator: the caller prints, plots and decides to stop. Given a folder it logs every step and
writes checkpoints, and `resume=True` goes on from the newest one to the same bits as an uninterrupted run (on the same
machine, with the same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from handscroll.training import checkpoint
from handscroll.training.accumulation import Accumulator, Averages
from handscroll.training.allocator import keep_freed_memory
from handscroll.training.batch import Batch
from handscroll.training.log import RunLog
from handscroll.training.mixture import MixedSource
from handscroll.training.objectives import Models, Objective
from handscroll.training.optimizers import AdamWOptions, OptimizerOptions, Optimizers
from handscroll.training.progress import Clock, Progress
from handscroll.training.randomness import generator, seeded
from handscroll.training.schedule import Cosine, Schedule
from handscroll.training.sources import Identified, PackedSource, Source


@dataclass(frozen=True)
class TrainOptions:
    """How long and by which rule to train. Gradients are clipped to a norm of `clip` (0: never).

    A step is `accumulation` micro batches. A checkpoint is written every `checkpoint_every` steps and after the last;
    the newest `keep` stay.
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

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: training needs at least 1")
        for name in ("seed", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative: give 0 or more")


class Update(NamedTuple):
    """What one step did."""

    loss: float
    terms: dict[str, float]
    metrics: dict[str, float]
    tokens: int
    learning_rate: float
    grad_norm: float
    waited: float


def train(
    models: Models,
    objective: Objective,
    source: Source,
    options: TrainOptions,
    folder: Path | None = None,
    *,
    resume: bool = False,
    callbacks: Sequence[Callable[[Progress], None]] = (),
) -> Iterator[Progress]:
    """Trains `models` in place and yields after every step.

    `callbacks` are called with each step's progress before its checkpoint is written, so that a step that was killed in
    one of them is taken again. With `resume` a folder without a checkpoint starts at step 0. On a CPU the process keeps
    the memory that steps free (`allocator.py`). Raises at once ValueError for a folder that holds another run and
    OSError for one that can't be made; while training, ValueError for a loss that is not finite.
    """
    trainer = Trainer(models, objective, source, options)
    if trainer.device.type == "cpu":
        keep_freed_memory()
    done = checkpoint.RunState(0, 0, 0.0, trainer.run)
    if folder is not None:
        found = checkpoint.checkpoints(folder)
        if found and not resume:
            raise ValueError(f"{folder} already holds a run ({found[-1].name}): resume it, or give another folder")
        if found:
            done = checkpoint.load(found[-1], models, trainer.optimizers, trainer.run)
        folder.mkdir(parents=True, exist_ok=True)
    return _steps(trainer, done, folder, callbacks)


def _steps(
    trainer: Trainer,
    done: checkpoint.RunState,
    folder: Path | None,
    callbacks: Sequence[Callable[[Progress], None]],
) -> Iterator[Progress]:
    """Steps from where the run stands to its end: update, log, callbacks, checkpoint, yield."""
    options, tokens, clock = trainer.options, done.tokens, Clock(done.seconds)
    log = RunLog(folder, done.step) if folder is not None else None
    try:
        for step in range(done.step, options.steps):
            started = time.perf_counter()
            update = trainer.step(step)
            tokens += update.tokens
            clock.tick(update.tokens, time.perf_counter() - started, update.waited)
            progress = _progress(step + 1, options.steps, update, tokens, clock)
            if log is not None:
                log.write(progress)
            for callback in callbacks:
                callback(progress)
            if folder is not None and (progress.step % options.checkpoint_every == 0 or progress.step == options.steps):
                state = checkpoint.RunState(progress.step, tokens, clock.seconds, trainer.run)
                checkpoint.save(folder, trainer.models, trainer.optimizers, state, options.keep)
            yield progress
    finally:
        if log is not None:
            log.close()


def _progress(step: int, steps: int, update: Update, tokens: int, clock: Clock) -> Progress:
    return Progress(
        step=step,
        steps=steps,
        loss=update.loss,
        terms=update.terms,
        metrics=update.metrics,
        tokens=tokens,
        tokens_per_second=clock.tokens_per_second,
        waiting=clock.waiting,
        learning_rate=update.learning_rate,
        grad_norm=update.grad_norm,
        seconds=clock.seconds,
        eta_seconds=clock.eta(steps - step),
    )


class Trainer:
    """Models, objective, source and optimizers, and the one step that joins them."""

    def __init__(self, models: Models, objective: Objective, source: Source, options: TrainOptions):
        if isinstance(source, PackedSource | MixedSource) and source.accumulation != options.accumulation:
            raise ValueError(
                f"accumulation={options.accumulation} but the source has {source.accumulation}: make them equal"
            )
        self.models, self.objective, self.source, self.options = models, objective, source, options
        self.optimizers = Optimizers(models, options.optimizer)
        self.parameters = list(self.optimizers.parameters.values())
        self.device = next(iter(models.values())).device
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
        rate = self.optimizers.step(self.options.schedule.multiplier(step, self.options.steps))
        return Update(averages.loss, averages.terms, averages.metrics, tokens, rate, grad_norm, waited)

    def accumulate(self, step: int) -> tuple[Averages, int, float]:
        """Leaves the gradient of all micro batches in the parameters.

        Returns their means, their real tokens, and the seconds that the models waited for them.
        """
        for model in self.models.values():
            model.train()
        accumulator, tokens, waited = Accumulator(self.parameters, self.options.accumulation), 0, 0.0
        with seeded(self.options.seed, step, device=self.device):
            for micro in range(self.options.accumulation):
                started = time.perf_counter()
                batch = self.batch(step, micro)
                waited += time.perf_counter() - started
                tokens += batch.real_tokens
                accumulator.add(self.objective.loss(self.models, batch.to(self.device)))
        return accumulator.finish(), tokens, waited

    def batch(self, step: int, micro: int) -> Batch:
        """A micro batch: a pure function of (seed, step, micro) and, where the model makes rows, of the model."""
        rng = generator(self.options.seed, step, micro)
        windows = [self.objective.prepare(self.models, rows, rng) for rows in self.source.windows(step, micro)]
        return self.objective.make_batch(windows, rng)

    def clip(self) -> float:
        """The gradient's norm before clipping; scales gradients down to `clip` where it is larger (mutates them)."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.options.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.options.clip, norm)
        return float(norm)

    def check(self, step: int, loss: float, grad_norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise ValueError(
                f"step {step + 1}: loss {loss}, gradient norm {grad_norm}. The weights are those of the step before. "
                "Try a lower learning rate, a longer warm-up, or clip=1.0, and look at the data of this step"
            )
