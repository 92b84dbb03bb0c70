"""Where the units of a text begin and end, whatever its languages, and what its words depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from handscroll.text.units.chinese import ChineseUnits
from handscroll.text.units.english import english_spans, words_in
from handscroll.text.units.marks import Marks, character_marks, token_marks
from handscroll.text.units.names import Names, read_names

# Raised whenever the rules of these files change, so that tokens that were written by older ones are made anew.
RULES = 1


class UnitFinder:
    """`names` are entities wherever they stand; what they leave is cut by jieba and by the rules of English."""

    def __init__(self, names: Names | None = None) -> None:
        self.names = names or Names()

    @classmethod
    def of(cls, dictionary: str | None) -> UnitFinder:
        """With the entities of a file, where there is one. ValueError where it can't be read."""
        return cls(None if dictionary is None else read_names(Path(dictionary)))

    @property
    def fingerprint(self) -> str:
        """Other units have another one."""
        content = f"{RULES} {version('jieba')} {self.names}"
        return hashlib.sha256(content.encode()).hexdigest()

    def marks(self, text: str) -> Marks:
        """A mark of every character."""
        words = words_in(text)
        spans = [*self.names.spans(text)]
        taken = np.zeros(len(text), dtype=bool)
        for start, end, _ in spans:
            taken[start:end] = True
        for found in (english_spans(text, words), self._chinese.spans(text)):
            spans += [span for span in found if not taken[span.start : span.end].any()]
        return character_marks(len(text), [(word.start(), word.end()) for word in words], spans)

    def token_marks(self, text: str, offsets: Sequence[tuple[int, int]]) -> Marks:
        """A mark of every token of a text."""
        blank_C = np.fromiter(map(str.isspace, text), dtype=bool, count=len(text))
        return token_marks(self.marks(text), blank_C, offsets)

    @cached_property
    def _chinese(self) -> ChineseUnits:
        return ChineseUnits(self.names.han)
