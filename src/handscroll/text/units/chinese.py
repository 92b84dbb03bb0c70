"""Words of Chinese by jieba: names are entities, and other words of two characters or more are phrases.

A single character is a unit of the basic level, whatever its tag. Names are what jieba's dictionary tags as person
(nr), place (ns), organisation (nt) or other name (nz). jieba cuts; its tagger, a tenth as fast, is asked only for words
that are not in the dictionary, and once for each.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from handscroll.text.jieba_words import HAN_RUN, new_dictionary, shared_dictionary
from handscroll.text.units.marks import ENTITY, PHRASE, Span

NAMES = ("nr", "ns", "nt", "nz")


class ChineseUnits:
    """`names` are the user's entities; they are known to jieba as words so frequent that it doesn't cut them."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self._names = frozenset(names)
        self._dictionary = new_dictionary() if names else shared_dictionary()
        for name in names:
            self._dictionary.add_word(name)

    def spans(self, text: str) -> Iterator[Span]:
        """Entities and phrases, in order."""
        for run in HAN_RUN.finditer(text):
            start = run.start()
            for word in self._dictionary.cut(run.group()):
                end = start + len(word)
                if word in self._names:
                    yield Span(start, end, ENTITY)
                elif len(word) > 1:
                    yield Span(start, end, ENTITY if is_name(word) else PHRASE)
                start = end


@lru_cache(maxsize=1 << 16)
def is_name(word: str) -> bool:
    """Whether a word is tagged as a name; a word that the dictionary lacks by what jieba's tagger makes of it."""
    tagger = _tagger()
    tag = tagger.word_tag_tab.get(word)
    if tag is None:
        found = tagger.lcut(word)
        tag = found[0].flag if len(found) == 1 else ""
    return str(tag)[:2] in NAMES


@lru_cache(maxsize=1)
def _tagger() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from jieba.posseg import POSTokenizer  # type: ignore[import-untyped]
    return POSTokenizer(shared_dictionary())
