"""A whole tokenizer whose vocabulary the readable reference has learnt, of words that are cut as the library cuts them.

Knows how learnt units become a tokenizer.json. Seconds grow with the number of different words times the vocabulary:
for a few hundred thousand characters and a few thousand entries.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Sequence

from tokenizers import models, pre_tokenizers

from handscroll.text.learning import UNKNOWN, Han, Kind, alphabet_of, finished, refuse_empty, scheme
from handscroll.text.reference import bpe, wordpiece
from handscroll.text.tokenizer import Tokenizer


def train(
    texts: Iterable[str],
    vocab_size: int,
    *,
    kind: Kind = "bpe",
    han: Han | None = None,
    words: Sequence[str] = (),
) -> Generator[int, None, Tokenizer]:
    """Yields the number of entries there are, and returns what `Tokenizer.train` would; arguments as there."""
    backend, while_learning, special_tokens, size = scheme(kind, han, vocab_size, words)
    counts: Counter[str] = Counter()
    texts = list(refuse_empty(texts))
    for text in texts:
        plain = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
        counts.update(word for word, _ in while_learning.pre_tokenize_str(plain))
    room = size - len(special_tokens)
    vocabulary = list(special_tokens)
    if kind == "bpe":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary += alphabet
        merges = []
        for pair in bpe.learn(counts, alphabet, room):
            merges.append(pair)
            vocabulary.append(pair[0] + pair[1])
            yield len(vocabulary)
        # A unit that two pairs make is one entry.
        ids = {unit: number for number, unit in enumerate(dict.fromkeys(vocabulary))}
        backend.model = models.BPE(ids, merges)
    else:
        alphabet = alphabet_of(texts, backend, room)
        vocabulary += alphabet
        known = set(alphabet)
        kept = {word: count for word, count in counts.items() if known.issuperset(wordpiece.units_of(word))}
        for unit in wordpiece.learn(kept, alphabet, room):
            vocabulary.append(unit)
            yield len(vocabulary)
        backend.model = models.WordPiece({unit: number for number, unit in enumerate(vocabulary)}, unk_token=UNKNOWN)
    return Tokenizer.learnt(finished(backend, special_tokens, words), kind)
