"""A time budget turned into steps, once, before training: afterwards only steps decide.

Knows how to measure what a step of each stage takes here, on a model that is thrown away. Leaves to others what the
stages are (`curriculum.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from handscroll.recipes.curriculum import Curriculum, Stage
from handscroll.recipes.events import Advance
from handscroll.training import Objective, Trainer, TrainOptions
from handscroll.training.allocator import keep_freed_memory

# The fastest of the measured steps counts: what else a machine does for a moment must not cost half the training.
WARM_STEPS, MEASURED_STEPS = 1, 4
# A smaller share of the questions' steps is not worth keeping the others whole.
FEWEST_QUESTIONS = 0.1


@dataclass(frozen=True)
class Plan:
    """The stages with the steps that they get: the questions `factor` times those of the full curriculum."""

    stages: tuple[Stage, ...]
    factor: float
    step_seconds: tuple[float, ...]

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def seconds(self) -> float:
        """How long training is expected to take."""
        return sum(stage.steps * each for stage, each in zip(self.stages, self.step_seconds, strict=True))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Plan:
        def stage(row: dict[str, Any]) -> Stage:
            values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
            return Stage(**values)

        stages = tuple(map(stage, row["stages"]))
        return cls(stages, row["factor"], tuple(row["step_seconds"]))


def make_plan(stages: Sequence[Stage], step_seconds: Sequence[float], budget: float) -> Plan:
    """All steps where `budget` seconds are enough; else fewer steps of questions, and only then fewer of everything.

    A skill that the questions stand on is there or not: with three quarters of its steps nothing later is learnt.
    """
    costs = [stage.steps * each for stage, each in zip(stages, step_seconds, strict=True)]
    questions = sum(cost for stage, cost in zip(stages, costs, strict=True) if stage.kind == "questions")
    skills = sum(costs) - questions
    factor = min(1.0, (budget - skills) / questions) if questions else 0.0
    only_questions = factor >= FEWEST_QUESTIONS
    if not only_questions:
        factor = min(1.0, budget / sum(costs))
    fewer = tuple(
        replace(stage, steps=max(1, round(factor * stage.steps)))
        if stage.kind == "questions" or not only_questions
        else stage
        for stage in stages
    )
    return Plan(fewer, factor, tuple(step_seconds))


def measure_steps(
    curriculum: Curriculum, objective: Objective, options: TrainOptions, make_models: Callable[[], Any]
) -> Iterator[Advance | list[float]]:
    """The last item is the seconds that one step of each stage takes. The models that are made are trained a little."""
    models, seconds = make_models(), []
    trainer = Trainer(models, objective, curriculum, options)
    if trainer.device.type == "cpu":
        keep_freed_memory()
    for number, (stage, (_, first)) in enumerate(zip(curriculum.stages, curriculum.first_steps(), strict=True), 1):
        taken = []
        for step in range(WARM_STEPS + MEASURED_STEPS):
            started = time.perf_counter()
            trainer.step(first - 1 + min(step, stage.steps - 1))
            taken.append(time.perf_counter() - started)
        seconds.append(min(taken[WARM_STEPS:]))
        yield Advance("Measuring", number, len(curriculum.stages), "stages", stage.tokens / seconds[-1], stage.name)
    yield seconds
