"""The table that every suite returns: a title, columns and rows of plain values, for people and for scripts.

Knows nothing of what was measured. A value that could not be measured is None, and is shown as "not available".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table as RichTable

Value = str | int | float | bool | None

NOT_AVAILABLE = "not available"


@dataclass(frozen=True)
class Table:
    """`rows` hold one value per column; `percent` names the columns whose values are shares from 0 to 1."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    percent: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"{len(row)} values for {len(self.columns)} columns: {row}"

    def column(self, name: str) -> list[Value]:
        """The values of one column, top to bottom."""
        if name not in self.columns:
            raise ValueError(f"column {name!r} is not in the table {self.title!r}: it has {', '.join(self.columns)}")
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def records(self) -> list[dict[str, Value]]:
        """Each row as {column: value}."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def shown(self) -> list[list[str]]:
        """Every value as it is shown to people."""
        return [
            [show(value, column in self.percent) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def to_rich(self) -> RichTable:
        """For a terminal; columns of numbers stand on the right."""
        table = RichTable(title=self.title, title_justify="left")
        for column in self.columns:
            # A name that is too long goes on in the next line: cut, it would name nothing.
            table.add_column(column, justify="right" if self.is_numeric(column) else "left", overflow="fold")
        for row in self.shown():
            table.add_row(*row)
        return table

    def to_json(self) -> dict[str, Any]:
        """Plain data; missing values are null."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(row) for row in self.rows]}

    def is_numeric(self, column: str) -> bool:
        """Whether the column holds numbers, or nothing."""
        return all(value is None or isinstance(value, int | float) for value in self.column(column))


def show(value: Value, percent: bool = False) -> str:
    """One value for people: thousands separated, three significant digits below 100, shares in per cent."""
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if percent:
        return f"{100 * value:.1f} %"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
