"""A text as words, each a sequence of units, with counts: what BPE and WordPiece look at and change.

Knows how joining a pair changes the counts, in the words that hold it only. Which pair is joined is left to others.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

Pair = tuple[str, str]


class Corpus:
    """`units` and `pairs` say how often each unit, and each two units side by side, stand in the text."""

    def __init__(self, words: Mapping[Sequence[str], int]) -> None:
        self._words = [(list(word), count) for word, count in words.items()]
        self._words_with: defaultdict[Pair, set[int]] = defaultdict(set)
        self.units: Counter[str] = Counter()
        self.pairs: Counter[Pair] = Counter()
        for place in range(len(self._words)):
            self._count(place, 1)

    def join(self, pair: Pair, joined: str) -> None:
        """Puts one unit in the place of the two, wherever they stand side by side (mutates)."""
        for place in sorted(self._words_with[pair]):
            units, count = self._words[place]
            self._count(place, -1)
            self._words[place] = (joined_in(units, pair, joined), count)
            self._count(place, 1)

    def _count(self, place: int, sign: int) -> None:
        """Adds a word to all counts, or takes it out."""
        units, count = self._words[place]
        for unit in units:
            self.units[unit] += sign * count
        for pair in pairwise(units):
            self.pairs[pair] += sign * count
            if sign > 0:
                self._words_with[pair].add(place)
            else:
                self._words_with[pair].discard(place)
            if not self.pairs[pair]:
                del self.pairs[pair], self._words_with[pair]


def joined_in(units: Sequence[str], pair: Pair, joined: str) -> list[str]:
    """The units of one word with the pair joined, from left to right."""
    result: list[str] = []
    place = 0
    while place < len(units):
        is_pair = tuple(units[place : place + 2]) == pair
        result.append(joined if is_pair else units[place])
        place += 2 if is_pair else 1
    return result
