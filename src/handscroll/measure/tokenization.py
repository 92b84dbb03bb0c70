"""What a tokenizer makes of a text: bytes per token, tokens per word and per Han character, seconds, and what is lost.

Knows words and characters. A token counts for what the first letter it covers belongs to: a word, which is a run of
letters that aren't Han, or a Han character. Tokens of spaces, digits and punctuation alone count for neither.
"""

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handscroll.measure.table import Table, Value
from handscroll.text import Tokenizer
from handscroll.text.jieba_words import HAN

# A letter that isn't Han; an apostrophe within a word belongs to it.
LETTER = rf"(?![{HAN}])[^\W\d_]"
WORD_OR_HAN = re.compile(rf"([{HAN}])|(?:{LETTER})+(?:['’](?:{LETTER})+)*")
NEITHER, OF_WORD, OF_HAN = 0, 1, 2
LONGEST_SHOWN = 5


@dataclass(frozen=True)
class Tokenized:
    """Counts over some texts; `bytes` are those of UTF-8, `seconds` those of `encode` on one core."""

    bytes: int = 0
    tokens: int = 0
    words: int = 0
    word_tokens: int = 0
    han: int = 0
    han_tokens: int = 0
    unknown: int = 0
    seconds: float = 0.0
    is_exact: bool = True

    def __add__(self, other: "Tokenized") -> "Tokenized":
        mine, theirs = vars(self), vars(other)
        summed = {key: mine[key] + theirs[key] for key in mine if key != "is_exact"}
        return Tokenized(**summed, is_exact=self.is_exact and other.is_exact)


def tokenized(tokenizer: Tokenizer, text: str) -> Tokenized:
    """Encodes one text and counts."""
    start = time.perf_counter()
    tokenizer.encode(text)
    seconds = time.perf_counter() - start
    ids, offsets = tokenizer.encode_with_offsets(text)
    belongs = bytearray(len(text))
    words = han = 0
    for found in WORD_OR_HAN.finditer(text):
        is_han = found.group(1) is not None
        han, words = han + is_han, words + (not is_han)
        belongs[found.start() : found.end()] = bytes([OF_HAN if is_han else OF_WORD]) * len(found.group())
    counted = Counter(next(filter(None, belongs[first:last]), NEITHER) for first, last in offsets)
    unknown = tokenizer.unknown_id
    return Tokenized(
        len(text.encode("utf-8", "replace")),
        len(ids),
        words,
        counted[OF_WORD],
        han,
        counted[OF_HAN],
        0 if unknown is None else ids.count(unknown),
        seconds,
        tokenizer.decode(ids) == text,
    )


def compare(tokenizers: Mapping[str, Tokenizer], texts: Sequence[str]) -> Iterator[tuple[str, Tokenized]]:
    """Each tokenizer's counts over all texts, as they grow: one after every text, the last one whole."""
    for name, tokenizer in tokenizers.items():
        total = Tokenized()
        for text in texts:
            total += tokenized(tokenizer, text)
            yield name, total


def as_table(measured: Mapping[str, Tokenized], sizes: Mapping[str, int]) -> Table:
    """A row for each tokenizer; what the texts hold nothing of is None."""
    rows: list[tuple[Value, ...]] = []
    for name, total in measured.items():
        rows.append(
            (
                name,
                sizes[name],
                total.tokens,
                _ratio(total.bytes, total.tokens),
                _ratio(total.word_tokens, total.words),
                _ratio(total.han_tokens, total.han),
                _ratio(total.unknown, total.tokens),
                total.is_exact,
                _ratio(total.bytes / 1e6, total.seconds),
            )
        )
    columns = (
        "tokenizer",
        "entries",
        "tokens",
        "bytes/token",
        "tokens/word",
        "tokens/Han character",
        "unknown",
        "gives the text back",
        "MB/s",
    )
    return Table("Tokenizers", columns, tuple(rows), frozenset({"unknown"}))


def describe(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a tokenizer is, as plain data: its scheme, its control tokens, and what its entries are made of."""
    texts = [tokenizer.decode([id_]) for id_ in sorted(set(tokenizer.backend.ids.values()))]
    control = set(tokenizer.special_tokens)
    plain = [text for text in texts if text not in control]
    made_of = Counter(map(_made_of, plain))
    whole = (text for text in plain if "\ufffd" not in text)
    return {
        "kind": tokenizer.backend.kind,
        "entries": len(texts),
        "control_tokens": tokenizer.special_tokens,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
        "unknown_id": tokenizer.unknown_id,
        "opening_ids": tokenizer.opening_ids,
        "stop_ids": list(tokenizer.stop_ids),
        "has_chat_template": tokenizer.chat_template is not None,
        "made_of": dict(made_of.most_common()),
        "longest": sorted(whole, key=len, reverse=True)[:LONGEST_SHOWN],
    }


def _made_of(text: str) -> str:
    if "\ufffd" in text:
        return "parts of characters"
    found: Iterable[re.Match[str]] = WORD_OR_HAN.finditer(text)
    kinds = {"Han" if match.group(1) else "letters" for match in found}
    return " and ".join(sorted(kinds)) or "digits, punctuation, spaces"


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
