"""Contexts of a wanted length: how many pieces fill it, and gold sentences laid among others at wanted depths.

Knows lengths and places. Leaves to others what the sentences say (`haystack.py` and the tasks).

A tokenizer may be slow and counts of pieces don't add up exactly, so the number of pieces is found by a secant, since
a text's tokens grow nearly in proportion to its pieces: the whole text is measured two or three times.
"""

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Generic, NamedTuple, TypeVar

from handscroll.text.tasks.task import Measure

FULL_ENOUGH = 0.95
AIM = 0.98
# Enough pieces to tell how many tokens one of them has, and few enough to cost nothing.
FIRST_PIECES = 32

Piece = TypeVar("Piece")


class Laid(NamedTuple):
    """A text, and for each gold sentence the character at which it begins."""

    text: str
    starts: tuple[int, ...]


class Pieces(Generic[Piece]):
    """The beginning of an endless stream, which is drawn once and may be looked at again."""

    def __init__(self, source: Iterator[Piece]) -> None:
        self._source = source
        self._drawn: list[Piece] = []

    def first(self, count: int) -> list[Piece]:
        """The first `count` pieces, or all where the stream ends before."""
        self._drawn.extend(islice(self._source, max(0, count - len(self._drawn))))
        return self._drawn[:count]


def fit(write: Callable[[int], str], tokens: int, measure: Measure, *, least: int = 1, most: int | None = None) -> int:
    """How many pieces `write` needs for a text of 95 to 100 % of `tokens`, or the most that fit if it never gets there.

    write: the text with so many pieces, always the same for the same number.
    Raises ValueError if the text of `least` pieces is too long already.
    """
    first = (least, measure(write(least)))
    if first[1] > tokens:
        raise ValueError(
            f"the context is to have {tokens} tokens, and the shortest that holds all it must has {first[1]}; "
            "ask for a longer context, or for less in it"
        )
    short, long = first, None
    count = least + FIRST_PIECES
    while short[1] < FULL_ENOUGH * tokens:
        if most is not None:
            count = min(count, most)
        if count <= short[0]:
            break
        used = measure(write(count))
        if used <= tokens:
            short = (count, used)
        else:
            long = (count, used)
        if long is not None and long[0] - short[0] == 1:
            break
        (count, used), (other, used_there) = short, long or first
        if used == used_there:  # pieces that are cut down to nothing as yet
            count += FIRST_PIECES
        else:
            count += max(1, round((AIM * tokens - used) * (other - count) / (used_there - used)))
        if long is not None:
            count = min(count, long[0] - 1)
    return short[0]


def even_places(count: int, rng: random.Random) -> list[float]:
    """`count` depths in the middle of equal shares of the text; a single one is anywhere."""
    return [(number + 0.5) / count for number in range(count)] if count > 1 else [rng.random() for _ in range(count)]


def group_places(sizes: Sequence[int], rng: random.Random) -> list[list[float]]:
    """Rising depths for groups of sentences: the first of each at even depths, the others anywhere after it."""
    firsts = even_places(len(sizes), rng)
    return [
        [first, *sorted(first + (1 - first) * rng.random() for _ in range(size - 1))][:size]
        for first, size in zip(firsts, sizes, strict=True)
    ]


def lay(hay: Sequence[str], gold: Sequence[str], places: Sequence[float], joint: str, before: str = "") -> Laid:
    """Gold sentences among `hay`, each where `places` of the hay's characters have gone by. `before` opens the text."""
    ends = list(accumulate((len(sentence) for sentence in hay), initial=0))
    order = sorted(range(len(gold)), key=lambda number: places[number])
    parts: list[str] = []
    starts = [0] * len(gold)
    position, copied = len(before), 0

    def add(sentence: str) -> None:
        nonlocal position
        parts.append(sentence)
        position += len(sentence) + len(joint)

    for number in order:
        index = bisect_left(ends, places[number] * ends[-1])
        for sentence in hay[copied:index]:
            add(sentence)
        copied = max(copied, index)
        starts[number] = position
        add(gold[number])
    for sentence in hay[copied:]:
        add(sentence)
    return Laid(before + joint.join(parts), tuple(starts))


def plant(
    hay: Iterator[str],
    gold: Sequence[str],
    places: Sequence[float],
    *,
    tokens: int,
    measure: Measure,
    joint: str,
    before: str = "",
) -> Laid:
    """`lay` with as much hay as the text needs."""
    pieces = Pieces(hay)

    def laid(count: int) -> Laid:
        return lay(pieces.first(count), gold, places, joint, before)

    return laid(fit(lambda count: laid(count).text, tokens, measure))
