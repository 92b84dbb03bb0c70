"""Byte-pair encoding (https://arxiv.org/abs/1508.07909): the two units that stand side by side most often become one.

Every word begins as its characters (of byte-level BPE: its bytes, each written as a character). Each step joins one
pair everywhere, and the list of joined pairs is the whole result: a text is encoded by joining in the same order.
Of equally frequent pairs that whose left unit, then whose right unit is the oldest, as in the `tokenizers` library.
"""

from collections.abc import Iterator, Mapping, Sequence

from handscroll.text.reference.corpus import Corpus, Pair


def learn(words: Mapping[str, int], alphabet: Sequence[str], size: int) -> Iterator[Pair]:
    """The pairs that are joined, first to last, until there are `size` units with the alphabet or no pair is left.

    `words` are the words of a text with how often each stands in it.
    """
    corpus = Corpus({tuple(word): count for word, count in words.items()})
    age = {unit: number for number, unit in enumerate(alphabet)}
    while len(age) < size and corpus.pairs:
        pair = max(corpus.pairs, key=lambda pair: (corpus.pairs[pair], -age[pair[0]], -age[pair[1]]))
        joined = pair[0] + pair[1]
        age.setdefault(joined, len(age))
        corpus.join(pair, joined)
        yield pair
