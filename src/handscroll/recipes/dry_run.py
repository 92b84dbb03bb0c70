"""What a recipe will take, said before anything is written: steps, tokens, parameters, memory and time.

Knows how to measure a few real steps, on a model that is thrown away. What a recipe means is `train.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from handscroll.model.footprint import parameter_count
from handscroll.recipes.events import Advance, Event, Finished
from handscroll.recipes.output import check_writable
from handscroll.recipes.prepare import Prepared, prepare
from handscroll.recipes.schema import Recipe
from handscroll.training import Trainer
from handscroll.training.allocator import keep_freed_memory

# The fastest of the measured steps counts, as in `plan.py`; the first one waits for memory.
WARM_STEPS, MEASURED_STEPS = 1, 3


def dry_run(recipe: Recipe, *, measure: bool = True) -> Iterator[Event]:
    """Ends with `Finished`, whose result has these keys; times are None without `measure`.

    `tokens_per_step` and `tokens` are those of full windows: padding, of which packing leaves little, counts. `memory`
    is in bytes, by what it is for; under mixed precision it is what float32 would need, an upper bound.
    Checks all that `train` would, and writes nothing.
    """
    check_writable(Path(recipe.out))
    prepared = prepare(recipe)
    options, source = prepared.options, prepared.source
    per_step = source.window * source.windows_per_batch * options.accumulation
    result: dict[str, Any] = {
        "steps": options.steps,
        "tokens_per_step": per_step,
        "tokens": per_step * options.steps,
        "parameters": parameter_count(prepared.model.config),
        "memory": asdict(prepared.footprint) | {"total": prepared.footprint.total},
        "device": str(prepared.model.device),
        "precision": options.precision,
        "evaluations": _evaluations(prepared),
        "seconds": None,
        "tokens_per_second": None,
    }
    if measure:
        step_seconds, evaluation_seconds = yield from _measure(prepared)
        result["seconds"] = step_seconds * options.steps + evaluation_seconds * result["evaluations"]
        result["tokens_per_second"] = per_step / step_seconds
    yield Finished(result)


def _measure(prepared: Prepared) -> Generator[Event, None, tuple[float, float]]:
    """Yields its progress; returns the seconds of a step and of an evaluation. Trains the prepared model a little."""
    trainer = Trainer({"model": prepared.model}, prepared.objective, prepared.source, prepared.options)
    if trainer.device.type == "cpu":
        keep_freed_memory()
    taken = []
    for number in range(WARM_STEPS + MEASURED_STEPS):
        started = time.perf_counter()
        trainer.step(min(number, prepared.options.steps - 1))
        taken.append(time.perf_counter() - started)
        yield Advance("measuring", number + 1, WARM_STEPS + MEASURED_STEPS, "steps")
    evaluation = 0.0
    if prepared.evaluation is not None:
        started = time.perf_counter()
        trainer.evaluate(prepared.evaluation.batches[:1])
        evaluation = (time.perf_counter() - started) * len(prepared.evaluation.batches)
    return min(taken[WARM_STEPS:]), evaluation


def _evaluations(prepared: Prepared) -> int:
    if prepared.evaluation is None:
        return 0
    return sum(
        prepared.evaluation.is_due(step, prepared.options.steps) for step in range(1, prepared.options.steps + 1)
    )
