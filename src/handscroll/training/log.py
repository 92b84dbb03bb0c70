"""A run's log: `log.jsonl`, one JSON object a step, the same for a resumed run as for an uninterrupted one.

Only the fields that speak of time differ. A kill can leave lines past the last checkpoint, or half a line; on resume
they are cut, for those steps are taken again. A step that was not evaluated has no `evaluation` in its line.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from handscroll.text.files import write_files
from handscroll.training.progress import Progress

Row = TypeVar("Row")

LOG_NAME = "log.jsonl"
WAY_OUT = "Checkpoints that are there stay whole: make room and resume the run"


class RunLog:
    """Appends to `folder/log.jsonl`; closed by the trainer."""

    def __init__(self, folder: Path, step: int):
        """Keeps the lines of the first `step` steps and drops what follows (mutates the file)."""
        path = folder / LOG_NAME
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        write_files(folder, {LOG_NAME: (line + "\n" for line in lines if _is_kept(line, step))})
        self._file = path.open("a", encoding="utf-8")

    def write(self, progress: Progress) -> None:
        """Raises ValueError where the disk has no room."""
        line = asdict(progress)
        if progress.evaluation is None or progress.evaluation.step != progress.step:
            del line["evaluation"]
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise ValueError(f"{self._file.name} can't be written: {error.strerror}. {WAY_OUT}") from error

    def close(self) -> None:
        # What could not be written at first can't be written now.
        with contextlib.suppress(OSError):
            self._file.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run so far, as they were written."""
    return [json.loads(line) for line in (folder / LOG_NAME).read_text(encoding="utf-8").splitlines()]


def evaluations(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the steps found that were evaluated."""
    return [row["evaluation"] for row in log if row.get("evaluation")]


def best_evaluation(log: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The one of the lowest loss; None where nothing was evaluated."""
    return min(evaluations(log), key=lambda row: row["loss"], default=None)


def neighbours(log: Sequence[Row], most: int) -> list[Sequence[Row]]:
    """The log in at most so many groups of lines that follow each other, to be drawn as a point each."""
    each = max(1, -(-len(log) // most))
    return [log[first : first + each] for first in range(0, len(log), each)]


def _is_kept(line: str, step: int) -> bool:
    try:
        number = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(number, int) and number <= step
