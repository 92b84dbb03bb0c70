"""How a vocabulary is learnt: byte-level BPE or WordPiece, by the `tokenizers` library.

Knows the steps from text to the pieces within which merges are learnt, and the size that a vocabulary can't go below.
`reference/` learns the same, readably and slowly; running a tokenizer is left to `backends/`.

Byte-level BPE is the scheme of GPT-2 (https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf);
the split pattern is Llama 3's (https://arxiv.org/abs/2407.21783), which cuts numbers into groups of up to three digits,
but a number keeps the space before it, as words do. It loses nothing.

WordPiece is the scheme of BERT (https://arxiv.org/abs/1810.04805), without lowering case. It is not lossless: runs of
spaces and line ends become one space, one is put between words and between Han characters, and what its alphabet
doesn't hold becomes <|unk|>. The library merges by frequency here, too; `reference/wordpiece.py` merges by gain of
likelihood.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from handscroll.text.jieba_words import JiebaCutter
from handscroll.text.roles import own_names

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
UNKNOWN = "<|unk|>"
CONTINUING = "##"
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SMALLEST_VOCAB = 256 + len(SPECIAL_TOKENS)

Kind = Literal["bpe", "wordpiece"]
Han = Literal["merged", "isolated", "jieba"]
HANS: dict[str, tuple[Han, ...]] = {"bpe": ("merged", "isolated", "jieba"), "wordpiece": ("isolated",)}


class Scheme(NamedTuple):
    """An untrained tokenizer, what its pre-tokenizer is while it learns, and the room for what is learnt."""

    backend: tokenizers.Tokenizer
    while_learning: Any
    special_tokens: tuple[str, ...]
    size: int  # of the vocabulary without `words`


def scheme(kind: str, han: str | None, vocab_size: int, words: Sequence[str], roles: tuple[str, ...] = ()) -> Scheme:
    """Checks what is asked for. `han` None is the first one that the kind allows."""
    if kind not in HANS:
        raise ValueError(f"kind is {kind!r}; it must be 'bpe' or 'wordpiece'")
    allowed = HANS[kind]
    if han is not None and han not in allowed:
        why = "; WordPiece cuts every Han character from its neighbours" if kind == "wordpiece" else ""
        raise ValueError(f"han is {han!r}; with kind={kind!r} it must be {' or '.join(map(repr, allowed))}{why}")
    special = (*SPECIAL_TOKENS, *(() if kind == "bpe" else (UNKNOWN,)), *own_names(roles))
    letters, what = (256, "256 bytes") if kind == "bpe" else (64, "64 entries to learn")
    if vocab_size < letters + len(special) + len(words):
        raise ValueError(
            f"vocab_size is {vocab_size}; it must be at least {letters + len(special) + len(words)} ({what}, "
            f"{len(special)} special tokens and {len(words)} words). Ask for a larger vocabulary."
        )
    backend, while_learning = _byte_level(han or allowed[0]) if kind == "bpe" else _wordpiece()
    return Scheme(backend, while_learning, special, vocab_size - len(words))


def learn(
    texts: Iterable[str],
    vocab_size: int,
    *,
    kind: str,
    han: str | None,
    words: Sequence[str],
    roles: tuple[str, ...] = (),
    progress: bool,
) -> str:
    """The tokenizer.json of a vocabulary of at most `vocab_size` entries."""
    backend, while_learning, special_tokens, size = scheme(kind, han, vocab_size, words, roles)
    texts = refuse_empty(texts)
    if kind == "bpe":
        trainer: Any = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[AddedToken(name, special=True, normalized=False) for name in special_tokens],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=progress,
        )
    else:
        texts = list(texts)
        # The trainer numbers marked characters in an order that changes from run to run, unless it is told of them.
        units = alphabet_of(texts, backend, size - len(special_tokens))
        trainer = trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=[*special_tokens, *units], limit_alphabet=0, show_progress=progress
        )
    for_use, backend.pre_tokenizer = backend.pre_tokenizer, while_learning
    backend.train_from_iterator(texts, trainer)
    backend.pre_tokenizer = for_use
    return finished(backend, special_tokens, words)


def alphabet_of(texts: Iterable[str], backend: tokenizers.Tokenizer, room: int) -> list[str]:
    """WordPiece's first units: the most frequent characters, and marked with ## those that can stand within a word.

    They take no more than half of the room.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    units: list[str] = []
    # In the order of their frequency, then of the alphabet.
    for character in sorted(counts, key=lambda character: (-counts[character], character)):
        if unicodedata.category(character)[0] in "CZ":
            continue  # the normalizer makes spaces of these, or nothing
        plain = backend.normalizer.normalize_str(f"a{character}")
        is_within = len(backend.pre_tokenizer.pre_tokenize_str(plain)) == 1
        units += [character, CONTINUING + character] if is_within else [character]
        if len(units) > room // 2:
            break
    return units[: room // 2]


def finished(backend: tokenizers.Tokenizer, special_tokens: Sequence[str], words: Sequence[str]) -> str:
    """The tokenizer.json of a trained tokenizer, with its control tokens and `words`, plain text that is never cut."""
    if len(backend.get_added_tokens_decoder()) > len(special_tokens):
        # The first units of WordPiece, which the trainer takes for control tokens.
        content = json.loads(backend.to_str())
        content["added_tokens"] = []
        backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special_tokens])
    backend.add_tokens([AddedToken(word, normalized=False) for word in words])
    whole: str = backend.to_str(pretty=True)
    return whole


def refuse_empty(texts: Iterable[str]) -> Iterator[str]:
    """The same texts. ValueError at their end if all were blank."""
    empty = True
    for text in texts:
        empty = empty and not text.strip()
        yield text
    if empty:
        raise ValueError("there is no text to learn a vocabulary from. Give at least one text that is not blank.")


def _byte_level(han: str) -> tuple[tokenizers.Tokenizer, Any]:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.decoder = decoders.ByteLevel()
    cuts: list[Any] = [pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")]
    if han == "isolated":
        cuts.append(pre_tokenizers.Split(Regex(r"\p{Han}"), behavior="isolated"))
    words = [pre_tokenizers.PreTokenizer.custom(JiebaCutter())] if han == "jieba" else []
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, as_bytes])
    return backend, pre_tokenizers.Sequence([*cuts, *words, as_bytes])


def _wordpiece() -> tuple[tokenizers.Tokenizer, Any]:
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=CONTINUING)
    return backend, backend.pre_tokenizer
