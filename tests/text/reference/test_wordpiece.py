"""The readable WordPiece against likelihoods worked out from scratch, and beside the `tokenizers` library."""

import math
from collections import Counter
from itertools import pairwise

import pytest

from handscroll.text import Tokenizer
from handscroll.text.reference import bpe, wordpiece
from handscroll.text.reference.corpus import Pair, joined_in
from handscroll.text.reference.training import train

WORDS = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
ALPHABET = ["b", "h", "p", "##g", "##n", "##s", "##u"]


def likelihood(words: dict[tuple[str, ...], int]) -> float:
    """Of the text, in units that are drawn as often as they stand in it."""
    counts: Counter[str] = Counter()
    for units, count in words.items():
        for unit in units:
            counts[unit] += count
    total = counts.total()
    return sum(count * math.log(count / total) for count in counts.values())


def best_pair(words: dict[tuple[str, ...], int]) -> tuple[float, Pair]:
    pairs = {pair for units in words for pair in pairwise(units)}
    before = likelihood(words)

    def gained(pair: Pair) -> float:
        joined = {tuple(joined_in(units, pair, "+".join(pair))): count for units, count in words.items()}
        return likelihood(joined) - before

    return max((gained(pair), pair) for pair in pairs)


def test_each_step_makes_the_text_most_likely() -> None:
    words = {wordpiece.units_of(word): count for word, count in WORDS.items()}
    expected = []
    while len(expected) < 3:
        best, pair = best_pair(words)
        assert best > 0
        expected.append(pair[0] + pair[1].removeprefix("##"))
        words = {tuple(joined_in(units, pair, expected[-1])): count for units, count in words.items()}
    assert list(wordpiece.learn(WORDS, ALPHABET, len(ALPHABET) + 3)) == expected
    # By hand: of 113 units 36 are ##u and 20 ##g, always behind ##u. Joined there are 93, of which 16 ##u and 20 ##ug.
    by_hand = 16 * math.log(16) - 36 * math.log(36) - 93 * math.log(93) + 113 * math.log(113)
    assert wordpiece.gain(20, 36, 20, 113) == pytest.approx(by_hand, abs=1e-9)
    assert expected[0] == "##ug"


def test_a_pair_that_is_rarer_than_by_chance_stays_apart() -> None:
    """a and c stand alone a thousand times, and three times each before b: BPE would join them, likelihood does not."""
    words = {"a": 1000, "ab": 3, "c": 1000, "cb": 3}
    assert wordpiece.gain(3, 1003, 6, 2012) < 0
    assert list(wordpiece.learn(words, ["a", "c", "##b"], 10)) == []
    assert len(list(bpe.learn(words, ["a", "b", "c"], 10))) == 2


def test_a_tokenizer_of_it_stands_beside_the_library(chronicle_texts: list[str]) -> None:
    texts = [chronicle_texts[0][:8000]]
    steps = train(texts, 500, kind="wordpiece")
    sizes = []
    while True:
        try:
            sizes.append(next(steps))
        except StopIteration as end:
            ours: Tokenizer = end.value
            break
    theirs = Tokenizer.train(texts, 500, kind="wordpiece")
    assert sizes == list(range(sizes[0], 501))
    assert ours.vocab_size == theirs.vocab_size == 500
    assert ours.special_tokens == theirs.special_tokens
    # The same units to begin with, under the same ids; the rest is chosen by gain here and by frequency there.
    first = range(sizes[0] - 1)
    assert [ours.decode([id_]) for id_ in first] == [theirs.decode([id_]) for id_ in first]
    assert ours.decode(ours.encode(texts[0])) == theirs.decode(theirs.encode(texts[0]))
    assert len(ours.encode(texts[0])) < 1.2 * len(theirs.encode(texts[0]))
