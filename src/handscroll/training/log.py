"""A run's log: `log.jsonl`, one JSON object a step, the same for a resumed run as for an uninterrupted one.

Only the fields that speak of time differ. A kill can leave lines past the last checkpoint, or half a line; on resume
they are cut, for those steps are taken again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from handscroll.training.progress import Progress

LOG_NAME = "log.jsonl"


class RunLog:
    """Appends to `folder/log.jsonl`; closed by the trainer."""

    def __init__(self, folder: Path, step: int):
        """Keeps the lines of the first `step` steps and drops what follows (mutates the file)."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOG_NAME
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        temporary = path.with_name(f".{LOG_NAME}.tmp")
        temporary.write_text("".join(line + "\n" for line in lines if _is_kept(line, step)), encoding="utf-8")
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, progress: Progress) -> None:
        self._file.write(json.dumps(asdict(progress)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _is_kept(line: str, step: int) -> bool:
    try:
        number = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(number, int) and number <= step
