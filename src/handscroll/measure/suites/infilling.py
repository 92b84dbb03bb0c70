"""The suite `infilling`: how many hidden spans a model tells word for word, one span of a piece at a time.

A masked language model is told how many tokens are missing and tells each without knowing the others; one that fills
blanks tells one after the other, and "ended" counts the spans that it also ended in their place. A span's bits per
byte are the sum of its tokens' surprise, of a filled blank given those before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from handscroll.kvcache import Policy
from handscroll.measure.hidden import Teller
from handscroll.measure.suites.pieces import LEAST_PIECE, Found, Piece, PieceOptions, measure_pieces, pieces
from handscroll.measure.suites.record import Measured, Record
from handscroll.measure.suites.suite import Part, Subject, Suite, Work
from handscroll.measure.table import Table


@dataclass(frozen=True, kw_only=True)
class InfillingOptions(PieceOptions):
    """`spans`: of each piece one span of each of these lengths, in tokens."""

    spans: tuple[int, ...] = (2, 3, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.spans or not all(0 < length < LEAST_PIECE for length in self.spans):
            raise ValueError(f"spans={self.spans}: lengths from 1 to {LEAST_PIECE - 1} tokens, at least one of them")


def parts(options: InfillingOptions) -> list[Part]:
    return [Part("infilling", lang) for lang in options.languages]


def prepare(subject: Subject, part: Part, options: InfillingOptions) -> list[Piece]:
    return pieces(subject, part.lang, options)


def measure(
    subject: Subject, policy: Policy, read: Sequence[Piece], options: InfillingOptions
) -> Iterator[Work | Measured]:
    lengths_N = np.array(options.spans)

    def hide(teller: Teller, piece: Piece, draws: np.random.Generator) -> Found:
        starts_N = draws.integers(0, len(piece.ids_L) - lengths_N, endpoint=True)
        spans_N2 = np.stack((starts_N, starts_N + lengths_N), axis=1)
        told = teller.alone(piece.ids_L, spans_N2)
        whole = [all(each.is_right) for each in told]
        ended = [each.is_ended and is_whole for each, is_whole in zip(told, whole, strict=True)]
        nll = sum(sum(each.nll) for each in told)
        size = sum(int(piece.bytes_L[start:stop].sum()) for start, stop in spans_N2)
        return Found(sum(whole), len(told), nll, size, None if None in ended else sum(map(bool, ended)))

    yield from measure_pieces(subject, read, options, hide)


def table(records: Sequence[Record]) -> Table:
    columns = ("language", "tokens", "spans", "told", "and ended", "bits per byte", "seconds")
    figures = ("score", "ended", "bits_per_byte")
    rows = tuple(
        (each.cell.lang, each.found.tokens, each.found.asked, *map(each.figure, figures), each.found.read_seconds)
        for each in records
    )
    return Table("Hidden spans", columns, rows, frozenset({"told", "and ended"}))


INFILLING = Suite(
    "infilling",
    frozenset({"hidden"}),
    ("score", "bits_per_byte", "ended"),
    InfillingOptions,
    parts,
    prepare,
    measure,
    table,
)
