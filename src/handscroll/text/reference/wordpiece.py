"""WordPiece: the two units become one whose joining makes the text most likely
(Schuster and Nakajima, https://research.google/pubs/japanese-and-korean-voice-search/; BERT, arXiv 1810.04805).

A word begins as its characters, those after the first marked with ##. A text of N units, each drawn as often as it
stands in it, has the log-likelihood `sum of n log(n / N)` over the units' counts n. Joining a pair takes its two units
out and puts one in for each place where they stand side by side; what the log-likelihood gains by it is the score.
BPE asks how often a pair is; this asks how much oftener it is than its parts would meet by chance.

The often quoted score `n(ab) / (n(a) n(b))` is about this gain for a single place. It prefers the rarest pairs of all,
and isn't used here.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import log

from handscroll.text.reference.corpus import Corpus, Pair

CONTINUING = "##"


def learn(words: Mapping[str, int], alphabet: Sequence[str], size: int) -> Iterator[str]:
    """The units that are made, first to last, until there are `size` with the alphabet or none would gain anything.

    `words` are the words of a text, with how often each stands in it, in characters of the alphabet only.
    """
    corpus = Corpus({units_of(word): count for word, count in words.items()})
    known = set(alphabet)
    while len(known) < size and corpus.pairs:
        total = corpus.units.total()

        def score(pair: Pair, total: int = total) -> tuple[float, int, Pair]:
            left, right = (corpus.units[unit] for unit in pair)
            count = corpus.pairs[pair]
            return gain(count, left, right, total, is_double=pair[0] == pair[1]), count, pair

        best, _, pair = max(map(score, corpus.pairs))
        if best <= 0:
            return
        joined = pair[0] + pair[1].removeprefix(CONTINUING)
        corpus.join(pair, joined)
        if joined not in known:
            known.add(joined)
            yield joined


def units_of(word: str) -> tuple[str, ...]:
    """The characters of a word, those after the first marked."""
    return (word[0], *(CONTINUING + character for character in word[1:]))


def gain(pair: int, left: int, right: int, total: int, *, is_double: bool = False) -> float:
    """What the log-likelihood of `total` units gains when two units, which stand side by side `pair` times, are joined.

    With is_double the two are the same unit. In a run of three it is counted as two pairs, as BPE does, though only one
    can be joined.
    """
    before = _term(left) - _term(total) + (0 if is_double else _term(right))
    rest = _term(max(0, left - 2 * pair)) if is_double else _term(left - pair) + _term(right - pair)
    return rest + _term(pair) - _term(total - pair) - before


def _term(count: int) -> float:
    return count * log(count) if count else 0.0
