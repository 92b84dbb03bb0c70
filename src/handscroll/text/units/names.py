"""Entities that a user names: a file with one a line, in any language, and where they stand in a text.

A Chinese name may be followed by frequency and part of speech, as in jieba's own dictionaries; both are passed over.
Names of Han characters alone are left to jieba (`chinese.py`), which weighs them against the words around; others are
found here, the longest first, where no letter or digit touches their ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from handscroll.text.jieba_words import HAN, HAN_RUN
from handscroll.text.units.marks import ENTITY, Span

JIEBA_FIELDS = re.compile(rf"([{HAN}]+)(?:\s+\d+)?(?:\s+[a-z]+)?")
# Where a name can begin.
BEGINNING = re.compile(rf"(?<![^\W{HAN}_])[^\W_]|[{HAN}]")


@dataclass(frozen=True)
class Names:
    """`han`: names of Han characters. `others`: by their first two characters, the longest first."""

    han: tuple[str, ...] = ()
    others: dict[str, list[str]] = field(default_factory=dict)

    def spans(self, text: str) -> Iterator[Span]:
        """Where the names that aren't left to jieba stand, in order, none within another."""
        if not self.others:
            return
        end = 0
        for found in BEGINNING.finditer(text):
            start = found.start()
            if start < end:
                continue
            for name in self.others.get(text[start : start + 2], ()):
                if text.startswith(name, start) and not _touches(text, start + len(name)):
                    end = start + len(name)
                    yield Span(start, end, ENTITY)
                    break


def read_names(file: Path) -> Names:
    """Raises ValueError for a file that can't be read or names nothing."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"dictionary={file} can't be read ({error}): give a UTF-8 text file, an entity a line"
        ) from error
    names = {_name(line.strip()) for line in lines if line.strip()}
    if not names:
        raise ValueError(f"dictionary={file} names no entity: write one a line, or leave the dictionary out")
    others: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (-len(name), name)):
        if not HAN_RUN.fullmatch(name):
            others.setdefault(name[:2], []).append(name)
    return Names(tuple(sorted(filter(HAN_RUN.fullmatch, names))), others)


def _name(line: str) -> str:
    found = JIEBA_FIELDS.fullmatch(line)
    return found[1] if found else line


def _touches(text: str, end: int) -> bool:
    """Whether a letter of a name goes on behind its end."""
    around = text[end - 1 : end + 1]
    return len(around) == 2 and all(each.isalnum() and not HAN_RUN.match(each) for each in around)
