"""What suites find: one record for each cell of the table (suite, task, language, length, policy), as plain data.

Knows which figures are worth a column. Leaves measuring to the suites, and tables over many cells to `battery.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from handscroll.measure.table import Table, Value

# A longer reason would widen a table's columns; `missing_table` has it.
LONGEST_REASON = 40


class Cell(NamedTuple):
    """What is measured: `length` in tokens, `policy` as `policy_name` has it."""

    suite: str
    task: str
    lang: str
    length: int
    policy: str

    @property
    def row(self) -> str:
        """The name of its row in a table, without the length."""
        task = self.task if self.task == self.suite else f"{self.suite}: {self.task}"
        return f"{task} {self.lang}" if self.lang else task


@dataclass(frozen=True)
class Measured:
    """What was found. Figures are named; "score" is a share from 0 to 1.

    `tokens`: those of the longest text that was read. Seconds are sums over all `readings`, bytes the most that the
    cache held after one of them. `attended`: the most keys that a query attends to behind it. `detail` is the suite's
    own, plain data that survives JSON. `missing` says why nothing was measured; all else is empty then.
    """

    figures: dict[str, float | None] = field(default_factory=dict)
    tokens: int = 0
    asked: int = 0
    readings: int = 0
    read_seconds: float = 0.0
    answer_seconds: float = 0.0
    device_bytes: int = 0
    host_bytes: int = 0
    attended: int | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Record:
    """A cell and what was found there."""

    cell: Cell
    found: Measured

    def to_json(self) -> dict[str, Any]:
        """One flat object; `from_json` gives an equal record."""
        return self.cell._asdict() | dataclasses.asdict(self.found)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Record:
        cell = Cell(*(row[name] for name in Cell._fields))
        return cls(cell, Measured(**{name: value for name, value in row.items() if name not in Cell._fields}))

    def figure(self, name: str) -> Value:
        """The figure, or in a few words that there is none."""
        missing = self.found.missing
        if missing:
            return missing if len(missing) <= LONGEST_REASON else missing.partition(":")[0]
        return self.found.figures.get(name)


def costs(found: Measured) -> tuple[Value, ...]:
    """The values of `COSTS`; seconds are those of one reading, and of all questions put to it."""
    if found.missing:
        return (None,) * len(COSTS)
    each = max(1, found.readings)
    held = (found.device_bytes / 1e6, found.host_bytes / 1e6)
    return (found.attended, *held, found.read_seconds / each, found.answer_seconds / each)


COSTS = ("attended keys", "device MB", "host MB", "seconds reading", "seconds answering")


def record_table(title: str, records: Sequence[Record], figures: Sequence[str], shares: Iterable[str] = ()) -> Table:
    """One row per record: where, how much was read and asked, the figures, and what it cost."""
    columns = ("task", "policy", "tokens", "questions", *figures, *COSTS)
    rows = tuple(
        (
            each.cell.row,
            each.cell.policy,
            each.found.tokens,
            each.found.asked,
            *(each.figure(name) for name in figures),
            *costs(each.found),
        )
        for each in records
    )
    return Table(title, columns, rows, frozenset(shares))
