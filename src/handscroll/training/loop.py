"""The training loop: steps in a row, what is logged and saved of them, evaluations between them.

It is a generator: the caller prints, plots and decides to stop. Given a folder it logs every step and writes
checkpoints, and `resume=True` goes on from the newest one to the same bits as an uninterrupted run (on the same
machine, with the same number of threads). Of several processes the first one writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from handscroll.training import checkpoint, parallel
from handscroll.training.allocator import keep_freed_memory
from handscroll.training.evaluation import Evaluated, Evaluation
from handscroll.training.log import RunLog
from handscroll.training.objectives import Models, Objective
from handscroll.training.progress import Clock, Progress
from handscroll.training.sources import Source
from handscroll.training.trainer import Trainer, TrainOptions, Update

Callback = Callable[[Progress], None]


def train(
    models: Models,
    objective: Objective,
    source: Source,
    options: TrainOptions,
    folder: Path | None = None,
    *,
    resume: bool = False,
    evaluation: Evaluation | None = None,
    callbacks: Sequence[Callback] = (),
) -> Iterator[Progress]:
    """Trains `models` in place and yields after every step.

    `callbacks` are called with each step's progress before its checkpoint is written, so that a step that was killed in
    one of them is taken again. With `evaluation` the checkpoint that evaluated best stays, too, and training may stop
    early. With `resume` a folder without a checkpoint starts at step 0. On a CPU the process keeps the memory that
    steps free (`allocator.py`). Raises at once ValueError for a folder that holds another run and
    OSError for one that can't be made; while training, ValueError for a loss that is not finite and for a full disk.
    """
    trainer = Trainer(models, objective, source, options)
    if trainer.device.type == "cpu":
        keep_freed_memory()
    run = trainer.run | ({"evaluation": evaluation.describe()} if evaluation is not None else {})
    parallel.check_same(json.dumps(run, sort_keys=True))
    done = checkpoint.RunState(0, 0, 0.0, run)
    if folder is not None:
        found = checkpoint.checkpoints(folder)
        if found and not resume:
            raise ValueError(f"{folder} already holds a run ({found[-1].name}): resume it, or give another folder")
        if found:
            done = checkpoint.load(found[-1], models, trainer.optimizers, run)
            trainer.scaler.load_state_dict(dict(done.scaler))
        folder.mkdir(parents=True, exist_ok=True)
    return _steps(trainer, done, folder, evaluation, callbacks)


def _steps(
    trainer: Trainer,
    done: checkpoint.RunState,
    folder: Path | None,
    evaluation: Evaluation | None,
    callbacks: Sequence[Callback],
) -> Iterator[Progress]:
    """Steps from where the run stands to its end: update, evaluation, log, callbacks, checkpoint, yield."""
    options, tokens, clock = trainer.options, done.tokens, Clock(done.seconds)
    standing, evaluated = done.standing, None
    if not parallel.is_first():
        folder, callbacks = None, ()
    log = RunLog(folder, done.step) if folder is not None else None
    try:
        for step in range(done.step, options.steps):
            if evaluation is not None and evaluation.patience is not None and standing.missed >= evaluation.patience:
                return
            started = time.perf_counter()
            update = trainer.step(step)
            tokens += update.tokens
            clock.tick(update.tokens, time.perf_counter() - started, update.waited)
            is_saved = (step + 1) % options.checkpoint_every == 0 or step + 1 == options.steps
            if evaluation is not None and evaluation.is_due(step + 1, options.steps):
                standing, evaluated = standing.after(step + 1, trainer.evaluate(evaluation.batches))
                is_saved |= evaluated.is_best or standing.missed == evaluation.patience
            progress = _progress(step + 1, options.steps, update, tokens, clock, evaluated)
            if log is not None:
                log.write(progress)
            for callback in callbacks:
                callback(progress)
            if folder is not None and is_saved:
                scaler = trainer.scaler.state_dict()
                state = checkpoint.RunState(step + 1, tokens, clock.seconds, done.run, standing, scaler)
                checkpoint.save(folder, trainer.models, trainer.optimizers, state, options.keep)
            yield progress
    finally:
        trainer.ahead.close()
        for model in trainer.models.values():
            model.eval()
        if log is not None:
            log.close()


def _progress(
    step: int, steps: int, update: Update, tokens: int, clock: Clock, evaluated: Evaluated | None
) -> Progress:
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
        evaluation=evaluated,
    )
