"""Corpora: the rows of files and folders, each with the place where it stands, read one by one.

Knows the order of files, how far reading has come, and what happens to a row that can't be used: it is an error that
names file and line, or, where that is asked for, it is counted and left out. Leaves formats to `formats.py` and columns
to `columns.py`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from handscroll.text.columns import Row, is_blank, normalised, row_text
from handscroll.text.formats import find_files, read_records

Paths = str | Path | Iterable[str | Path]
# Of the rows that are left out, so many are told one by one.
NAMED = 5


class Located(NamedTuple):
    """A row of one of the kinds of `columns.py`, and where it stands."""

    row: Row
    file: Path
    number: int

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}" if self.number else str(self.file)


@dataclass
class Skipped:
    """Rows that were left out because they can't be used: how many, and what is wrong with the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, error: ValueError) -> None:
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(str(error))

    def describe(self) -> str:
        """For the reader; empty where nothing was left out."""
        if not self.count:
            return ""
        more = "" if self.count == len(self.first) else f"\n  and {self.count - len(self.first):,} more"
        return f"left out {self.count:,} bad rows:" + "".join(f"\n  {line}" for line in self.first) + more


class Corpus:
    """The rows of all files, in order; blank texts are left out. Each iteration reads from the start.

    `skipped` counts bad rows; without it (None) the first one is a ValueError. `read` of `size` bytes are read.
    """

    def __init__(self, paths: Paths, skipped: Skipped | None = None) -> None:
        self.files = find_files([paths] if isinstance(paths, str | Path) else paths)
        self.size = sum(file.stat().st_size for file in self.files)
        self.skipped = skipped
        self._before = 0
        self._open: IO[bytes] | None = None

    def __iter__(self) -> Iterator[Located]:
        """Raises ValueError for what can't be read, and at the end if there was nothing."""
        is_empty, self._before = True, 0
        for file in self.files:
            for located in self._rows(file):
                is_empty = False
                yield located
            self._before += file.stat().st_size
        if is_empty:
            self.nothing("text")

    def fail(self, place: str, error: ValueError) -> None:
        """Counts a row that can't be used, or raises what is wrong with it, with its place."""
        named = ValueError(f"{place}: {error}")
        if self.skipped is None:
            raise named from error
        self.skipped.add(named)

    def nothing(self, what: str) -> None:
        """Raises ValueError: after all files there is none of what is looked for."""
        names = ", ".join(map(str, self.files[:NAMED])) + (", ..." if len(self.files) > NAMED else "")
        why = f" ({self.skipped.describe()})" if self.skipped is not None and self.skipped.count else ""
        raise ValueError(f"the corpus is empty: no {what} in {names}{why}. Give files that hold text.")

    @property
    def read(self) -> int:
        """Bytes that the running iteration has read."""
        return self._before + (0 if self._open is None else self._open.tell())

    def _rows(self, file: Path) -> Iterator[Located]:
        try:
            raw = file.open("rb")
        except OSError as error:
            raise ValueError(f"{file} can't be read: {error.strerror}. Check its permissions.") from error
        with raw:
            self._open = raw
            try:
                for number, content in read_records(file, raw):
                    if isinstance(content, dict):
                        try:
                            located = Located(normalised(content), file, number)
                        except ValueError as error:
                            content = error
                        else:
                            if not is_blank(located.row):
                                yield located
                            continue
                    self.fail(f"{file}:{number}" if number else str(file), content)
            finally:
                self._open = None


def read_rows(paths: Paths) -> list[Row]:
    """The rows of all files, in order. A txt or md file is one row; blank rows are left out.

    Raises ValueError for anything that can't be read, and when no text is left at all.
    """
    return [located.row for located in Corpus(paths)]


def read_texts(paths: Paths) -> list[str]:
    """The texts of all files, in order; of a conversation the contents, a line each."""
    return [row_text(located.row) for located in Corpus(paths)]
