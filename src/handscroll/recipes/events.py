"""What a long run tells its caller as it goes. A run is a generator of these; the command line turns them into bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from handscroll.training import Progress


# A share of training's time.
WORTH_TELLING = 0.02


class Advice(UserWarning):
    """A choice that works, and that somebody may not want; the command line says it in one line."""


class Advance(NamedTuple):
    """One piece of work has come this far: `done` of `total` `unit`s; `tokens_per_second` and `note` where known."""

    task: str
    done: float
    total: float
    unit: str = "tokens"
    tokens_per_second: float | None = None
    note: str = ""


class Said(NamedTuple):
    """A line for the reader: what was found, decided or written."""

    text: str


class Finished(NamedTuple):
    """The end of a run: its result as plain data (what result.json holds) and the next commands to try."""

    result: dict[str, Any]
    next_commands: tuple[str, ...] = ()


Event = Advance | Said | Finished


def step_event(progress: Progress, task: str = "training") -> Advance:
    """A training step as an event; a wait for data that slows training is told."""
    note = f"loss {progress.loss:.3f}"
    if progress.evaluation is not None:
        note += f", evaluation {progress.evaluation.loss:.3f} (perplexity {progress.evaluation.perplexity:,.1f})"
    if progress.waiting > WORTH_TELLING:
        note += f", {progress.waiting:.0%} of the time waiting for data"
    return Advance(task, progress.step, progress.steps, "steps", progress.tokens_per_second, note)
