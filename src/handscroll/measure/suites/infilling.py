"""The suite `infilling`: how many hidden spans a model tells word for word, one span of a piece at a time.

A masked language model is told how many tokens are missing and tells each without knowing the others; one that fills
blanks tells one after the other, and "ended" counts the spans that it also ended in their place. A span's bits per
byte are the sum of its tokens' surprise, of a filled blank given those before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handscroll.measure.hidden import Teller
from handscroll.measure.suites.pieces import BITS, LEAST_PIECE, Found, Piece, PieceOptions, hiding_suite


@dataclass(frozen=True, kw_only=True)
class InfillingOptions(PieceOptions):
    """`spans`: of each piece one span of each of these lengths, in tokens."""

    spans: tuple[int, ...] = (2, 3, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.spans or not all(0 < length < LEAST_PIECE for length in self.spans):
            raise ValueError(f"spans={self.spans}: lengths from 1 to {LEAST_PIECE - 1} tokens, at least one of them")


def hide(teller: Teller, piece: Piece, draws: np.random.Generator, options: InfillingOptions) -> Found:
    lengths_N = np.array(options.spans)
    starts_N = draws.integers(0, len(piece.ids_L) - lengths_N, endpoint=True)
    spans_N2 = np.stack((starts_N, starts_N + lengths_N), axis=1)
    told = teller.alone(piece.ids_L, spans_N2)
    whole = [all(each.is_right) for each in told]
    ended = [each.is_ended and is_whole for each, is_whole in zip(told, whole, strict=True)]
    nll = sum(sum(each.nll) for each in told)
    size = sum(int(piece.bytes_L[start:stop].sum()) for start, stop in spans_N2)
    return Found(sum(whole), len(told), nll, size, None if None in ended else sum(map(bool, ended)))


INFILLING = hiding_suite(
    "infilling",
    InfillingOptions,
    hide,
    "Hidden spans",
    "spans",
    {"score": "told", "ended": "and ended", "bits_per_byte": BITS},
)
