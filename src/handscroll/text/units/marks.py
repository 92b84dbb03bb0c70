"""Units of a text written down as one byte a character, and as one byte a token.

A byte holds the level of the unit that its character is in and whether a basic unit, and a unit, begin here: so any
part of a text keeps its units, and a part that begins within one holds what is left of it. Knows no language.

Letters: C characters, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Marks = NDArray[np.uint8]
# By level: a character or word, a phrase, an entity.
LEVELS = ("token", "phrase", "entity")
TOKEN, PHRASE, ENTITY = range(len(LEVELS))


class Mark:
    """Bits of a mark: LEVEL masks the two of the level.

    WORD and UNIT: the first of a basic unit, and of a unit of any level. STRADDLES: a token that holds the end of a
    phrase or an entity and what is beside it. TURN and RESPONSE are of conversations: the first token of a turn, and
    each token of an answer.
    """

    LEVEL = 3
    WORD = 4
    UNIT = 8
    STRADDLES = 16
    TURN = 32
    RESPONSE = 64


ALONE = Mark.WORD | Mark.UNIT


class Span(NamedTuple):
    """Characters start:end of a text that are a unit of a level above the basic one."""

    start: int
    end: int
    level: int


def character_marks(length: int, words: Sequence[tuple[int, int]], spans: Sequence[Span]) -> Marks:
    """Every character is a basic unit but those within `words`, (start, end) each, and a unit but within `spans`."""
    marks_C = np.full(length, ALONE, dtype=np.uint8)
    _join(marks_C, words, np.uint8(Mark.LEVEL))
    level_C = np.zeros(length, dtype=np.uint8)
    for start, end, level in spans:
        level_C[start:end] = level
    _join(marks_C, [span[:2] for span in spans], np.uint8(Mark.LEVEL | Mark.WORD))
    return marks_C | level_C


def _join(marks_C: Marks, runs: Sequence[tuple[int, int]], kept: np.uint8) -> None:
    """Takes all bits but `kept` from the runs' characters after their first (mutates)."""
    change_C = np.zeros(len(marks_C) + 1, dtype=np.int64)
    if runs:
        start_R, end_R = np.array(runs, dtype=np.int64).T
        np.add.at(change_C, np.minimum(start_R + 1, end_R), 1)
        np.add.at(change_C, end_R, -1)
    marks_C[change_C.cumsum()[:-1] > 0] &= kept


def token_marks(marks_C: Marks, blank_C: NDArray[np.bool_], offsets: Sequence[tuple[int, int]]) -> Marks:
    """The marks of tokens that cover the characters `offsets`, (start, end) each.

    A token belongs to the unit of its characters that are not blank (`blank_C`). Units that a token has characters of
    become one, of the highest of their levels, for a token can't be hidden in part: all bytes of a character, a word
    with what a merge has joined to it.
    """
    if not len(offsets):
        return np.zeros(0, dtype=np.uint8)
    first_T, last_T = _trimmed(blank_C, np.array(offsets, dtype=np.int64))
    is_empty_T = first_T > last_T
    marks_T = np.zeros(len(offsets), dtype=np.uint8)
    crosses_T = {}
    for bit in (Mark.WORD, Mark.UNIT):
        number_C = np.cumsum(marks_C & bit > 0)
        from_T, to_T = (number_C[np.minimum(at_T, len(marks_C) - 1)] for at_T in (first_T, last_T))
        crosses_T[bit] = from_T != to_T
        begins_T = np.append(True, from_T[1:] != to_T[:-1]) | is_empty_T
        begins_T[1:] |= is_empty_T[:-1]
        marks_T[begins_T] |= np.uint8(bit)
    level_T = np.zeros(len(offsets), dtype=np.uint8)
    level_C = marks_C & Mark.LEVEL
    for level in (PHRASE, ENTITY):
        before_C = np.append(0, np.cumsum(level_C == level))
        has_T = before_C[np.minimum(last_T + 1, len(marks_C))] > before_C[np.minimum(first_T, len(marks_C))]
        level_T[has_T & ~is_empty_T] = level
    marks_T[crosses_T[Mark.UNIT] & (level_T > 0) & ~is_empty_T] |= np.uint8(Mark.STRADDLES)
    starts = np.flatnonzero(marks_T & Mark.UNIT)
    highest = np.maximum.reduceat(level_T, starts)
    marks_T |= np.repeat(highest, np.diff(np.append(starts, len(marks_T))))
    return marks_T


def _trimmed(blank_C: NDArray[np.bool_], offsets_T2: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last character of each token, blanks at its ends apart; of a blank token all that it has."""
    start_T, end_T = offsets_T2.T
    place_C = np.arange(len(blank_C))
    before_C = np.maximum.accumulate(np.where(blank_C, -1, place_C))
    after_C = np.minimum.accumulate(np.where(blank_C, len(blank_C), place_C)[::-1])[::-1]
    inside = max(len(blank_C) - 1, 0)
    first_T, last_T = after_C[np.minimum(start_T, inside)], before_C[np.clip(end_T - 1, 0, inside)]
    is_blank_T = (first_T >= end_T) | (last_T < start_T) | (end_T <= start_T)
    return np.where(is_blank_T, start_T, first_T), np.where(is_blank_T, end_T - 1, last_T)
