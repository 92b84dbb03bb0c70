"""What a person sees while something runs: bars on a terminal, sparse lines elsewhere; or JSON, for a script.

Knows events (`recipes/events.py`) and streams. With JSON on stdout everything for people goes to stderr.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import gt
from typing import TYPE_CHECKING, Any, Protocol

from handscroll.recipes.events import Advance, Event, Finished

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table as RichTable

    from handscroll.measure.table import Table

# Elsewhere than on a terminal, such as in a log file, one line in so many seconds tells that work goes on.
SECONDS_BETWEEN_LINES = 10.0
# No terminal is so wide: how wide a table would like to be is asked without a limit.
WIDEST = 10_000


class Display(Protocol):
    """Where a running verb shows how far it is."""

    def advance(self, event: Advance) -> None:
        """A piece of work has come further."""

    def say(self, text: str) -> None:
        """A line for the reader."""


def print_json(result: Any) -> None:
    """One JSON object on one line of stdout."""
    print(json.dumps(result, ensure_ascii=False))


def print_table(target: Console, table: Table) -> None:
    """The table as it is where it fits; else turned round, with a column for each of its rows.

    A table with more rows than columns, or whose rows have no names of their own, would be no narrower: it stays, with
    narrower columns.
    """
    from rich.table import Table as RichTable

    upright = table.to_rich()
    names = table.column(table.columns[0])
    fits = target.measure(upright, options=target.options.update_width(WIDEST)).maximum <= target.width
    if fits or len(table.rows) > len(table.columns) or len(set(names)) < len(names):
        target.print(upright if fits else narrowed(table, target.width))
        return
    turned = RichTable(title=table.title, title_justify="left")
    shown = table.shown()
    for place, name in enumerate((table.columns[0], *(row[0] for row in shown))):
        turned.add_column(name, justify="right" if place else "left")
    for place, name in enumerate(table.columns[1:], 1):
        turned.add_row(name, *(row[place] for row in shown))
    target.print(turned)


def narrowed(table: Table, width: int) -> RichTable:
    """With nothing but a space between columns, the widest of which wrap at their words, and within them at last."""
    from rich import box
    from rich.cells import cell_len

    columns = [*zip(table.columns, *table.shown(), strict=True)]
    widths = [max(map(cell_len, cells)) for cells in columns]
    words = [max(cell_len(word) for cell in cells for word in cell.split() or [""]) for cells in columns]
    for least in (words, [1] * len(words)):
        while sum(widths) + len(widths) + 1 > width and any(map(gt, widths, least)):
            spare = [have if have > need else 0 for have, need in zip(widths, least, strict=True)]
            widths[spare.index(max(spare))] -= 1
    found = table.to_rich()
    found.box, found.padding, found.pad_edge = box.SIMPLE_HEAD, 0, False
    for column, room in zip(found.columns, widths, strict=True):
        column.width = room
    return found


def console(is_json: bool = False) -> Console:
    """Where people read. Text is printed as it is: nothing in it is markup, and lines are never cut."""
    from rich.console import Console

    return Console(stderr=is_json, markup=False, highlight=False, soft_wrap=True)


def has_colours(target: Console) -> bool:
    """Whether colours can say something there: on a terminal, unless NO_COLOR or TERM forbid them."""
    return target.color_system is not None and not target.no_color


@contextmanager
def showing(target: Console) -> Iterator[Display]:
    """Bars or lines on `target` while the block runs."""
    if not target.is_terminal:
        yield Lines(target)
        return
    bars = Bars(target)
    with bars.progress:
        yield bars


def follow(target: Console, events: Iterable[Event]) -> Finished | None:
    """Shows what a run says and how far it is; returns how it ended."""
    finished: Finished | None = None
    with showing(target) as display:
        for event in events:
            if isinstance(event, Advance):
                display.advance(event)
            elif isinstance(event, Finished):
                finished = event
            else:
                display.say(event.text)
    return finished


def print_next(target: Console, commands: Sequence[str]) -> None:
    """The commands that a run ends with, for copying."""
    if commands:
        target.print("\nGo on with:")
    for command in commands:
        target.print(f"  {command}")


class Bars:
    """One bar per task: how far, tokens per second, time left."""

    def __init__(self, target: Console):
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self.progress: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}", style="cyan"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", style="dim"),
            console=target,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def advance(self, event: Advance) -> None:
        if event.task not in self._tasks:
            self._tasks[event.task] = self.progress.add_task(event.task, total=event.total, speed="", note="")
        self.progress.update(
            self._tasks[event.task],
            completed=event.done,
            total=event.total,
            speed=_speed(event),
            note=event.note,
        )

    def say(self, text: str) -> None:
        self.progress.console.print(text)


class Lines:
    """A line now and then, and one at the end of each task."""

    def __init__(self, target: Console):
        self._target = target
        self._clocks: dict[str, _Clock] = {}
        self._printed = time.monotonic()

    def advance(self, event: Advance) -> None:
        if event.task not in self._clocks:
            self._clocks[event.task] = _Clock(event.done)
            self._printed = time.monotonic()
        clock = self._clocks[event.task]
        is_done = event.done >= event.total
        is_due = time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES
        if clock.is_done or not (is_done or is_due):
            return
        clock.is_done = is_done
        self._printed = time.monotonic()
        left = f"took {duration(clock.elapsed)}" if is_done else f"{duration(clock.left(event))} left"
        parts = [f"{event.done:,.0f} of {event.total:,.0f} {event.unit}", _speed(event), left, event.note]
        self._target.print(f"{event.task}: {', '.join(part for part in parts if part)}")

    def say(self, text: str) -> None:
        self._target.print(text)


class _Clock:
    """When a task was first heard of, and how far it was then: a resumed one begins in the middle."""

    def __init__(self, done: float):
        self._start, self._first = time.monotonic(), done
        self.is_done = False

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def left(self, event: Advance) -> float:
        return self.elapsed / max(1e-9, event.done - self._first) * (event.total - event.done)


def _speed(event: Advance) -> str:
    return f"{event.tokens_per_second:,.0f} tokens/s" if event.tokens_per_second is not None else ""


def duration(seconds: float) -> str:
    """1:05, or with hours 2:00:30."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
