"""Suites that hide tokens: texts cut into pieces that a model reads one by one, by language.

Knows files, how a language is told, and how figures add up. Leaves to each suite what is hidden of a piece.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from handscroll.kvcache import Policy
from handscroll.measure.hidden import Teller, make_teller
from handscroll.measure.likelihood import bits_per_byte, token_bytes
from handscroll.measure.suites.record import Measured, Record
from handscroll.measure.suites.source import check_languages, chronicle
from handscroll.measure.suites.suite import Part, Subject, Suite, Work
from handscroll.measure.table import Table
from handscroll.text import read_texts
from handscroll.text.chronicle import LANGUAGES

HAN = re.compile(r"[\u4e00-\u9fff]")
# A piece in which more of the characters are Han is Chinese.
HAN_SHARE = 0.2
# The column of bits per byte, which are no share.
BITS = "bits per byte"
# Fewer tokens say too little about what is hidden among them.
LEAST_PIECE = 16


@dataclass(frozen=True, kw_only=True)
class PieceOptions:
    """Of each language the first `tokens` tokens of `files` (txt, md, jsonl), else of a chronicle.

    Pieces have `window` tokens at most, or as many as the model has room for.
    """

    tokens: int = 8192
    files: tuple[str, ...] | str = ()
    languages: tuple[str, ...] = LANGUAGES
    seed: int = 0
    window: int = 96

    def __post_init__(self) -> None:
        if min(self.tokens, self.window) < LEAST_PIECE:
            raise ValueError(
                f"tokens={self.tokens}, window={self.window}: a piece has {LEAST_PIECE} tokens at least, so give as "
                "many of both"
            )
        check_languages(self.languages)

    @property
    def full_limit(self) -> int:
        """Nothing is read with a cache."""
        return self.tokens


class Piece(NamedTuple):
    """Tokens, and the bytes of the text that each stands for."""

    ids_L: NDArray[np.int64]
    bytes_L: NDArray[np.int64]


class Found(NamedTuple):
    """Of one piece, or of all: what of how much was told rightly; how much nats its hidden tokens cost, of what bytes.

    `ended`: how many spans were ended by the model itself; None where it isn't asked to.
    """

    right: int = 0
    asked: int = 0
    nll: float = 0.0
    bytes: int = 0
    ended: int | None = None

    def add(self, other: Found) -> Found:
        ended = None if other.ended is None else (self.ended or 0) + other.ended
        right, asked, nll = self.right + other.right, self.asked + other.asked, self.nll + other.nll
        return Found(right, asked, nll, self.bytes + other.bytes, ended)


def pieces(subject: Subject, lang: str, options: PieceOptions) -> list[Piece]:
    """Those of a language; no piece has tokens of two texts. None where the files hold nothing of this language."""
    tokenizer, size = subject.tokenizer, min(options.window, subject.model.config.max_positions - 2)
    texts = (
        read_texts(options.files)
        if options.files
        else [chronicle(tokenizer, options.tokens, (lang,), options.seed).text]
    )
    found, left = [], options.tokens
    for text in texts:
        if left < LEAST_PIECE:
            break
        encoded = tokenizer.encode_with_offsets(text)
        ids, bytes_T = np.array(encoded.ids, dtype=np.int64), token_bytes(text, encoded.offsets)
        for start in range(0, len(ids), size):
            stop = start + min(size, left)
            offsets = encoded.offsets[start:stop]
            piece = Piece(ids[start:stop], bytes_T[start:stop])
            if len(offsets) >= LEAST_PIECE and language(text[offsets[0][0] : offsets[-1][1]]) == lang:
                found.append(piece)
                left -= len(offsets)
    return found


def language(text: str) -> str:
    return "zh" if len(HAN.findall(text)) > HAN_SHARE * len(text) else "en"


class Hide(Protocol):
    def __call__(self, teller: Teller, piece: Piece, draws: np.random.Generator, options: Any, /) -> Found:
        """Asks for what is hidden of a piece; what is drawn is a function of the seed and the piece's number."""


def hiding_suite(
    name: str, options: type[PieceOptions], hide: Hide, title: str, asked: str, figures: Mapping[str, str]
) -> Suite:
    """`title`, and what of each language is `asked`, are those of the table; `figures` give its columns their names."""

    def parts(options: PieceOptions) -> list[Part]:
        return [Part(name, lang) for lang in options.languages]

    def prepare(subject: Subject, part: Part, options: PieceOptions) -> list[Piece]:
        return pieces(subject, part.lang, options)

    def measure(
        subject: Subject, policy: Policy, read: Sequence[Piece], options: PieceOptions
    ) -> Iterator[Work | Measured]:
        return _measure(subject, read, options, hide)

    def table(records: Sequence[Record]) -> Table:
        rows = []
        for each in records:
            found = each.found
            rows.append((each.cell.lang, found.tokens, found.asked, *map(each.figure, figures), found.read_seconds))
        columns = ("language", "tokens", asked, *figures.values(), "seconds")
        return Table(title, columns, tuple(rows), frozenset(figures.values()) - {BITS})

    return Suite(name, frozenset({"hidden"}), tuple(figures), options, parts, prepare, measure, table)


def _measure(subject: Subject, read: Sequence[Piece], options: PieceOptions, hide: Hide) -> Iterator[Work | Measured]:
    if not read:
        yield Measured(missing="no text of this language")
        return
    teller, total, done = make_teller(subject.model, subject.tokenizer), sum(len(piece.ids_L) for piece in read), 0
    found, started = Found(), time.perf_counter()
    for number, piece in enumerate(read):
        found = found.add(hide(teller, piece, np.random.default_rng([options.seed, number]), options))
        done += len(piece.ids_L)
        yield Work("reading", done, total, "tokens", done / (time.perf_counter() - started))
    figures: dict[str, Any] = {
        "score": found.right / found.asked,
        "bits_per_byte": bits_per_byte(found.nll, found.bytes),
        "ended": None if found.ended is None else found.ended / found.asked,
    }
    seconds = time.perf_counter() - started
    yield Measured(figures, tokens=total, asked=found.asked, readings=1, read_seconds=seconds)
