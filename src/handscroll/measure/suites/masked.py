"""The suite `masked`: how many hidden tokens a model tells, and how well it predicts each from all others.

Two ways, over the same drawn tokens of each piece. The score is that of tokens that are all hidden at once, as in
training; always by the mask, never by a random token. Bits per byte are of tokens that are hidden one at a time, as in
pseudo-likelihood (arXiv 1910.14659, equation 3), so that with `hidden=1` they are those of the whole text. A model that
fills blanks tells a blank of one token, and isn't asked how it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handscroll.measure.hidden import Teller
from handscroll.measure.suites.pieces import BITS, Found, Piece, PieceOptions, hiding_suite


@dataclass(frozen=True, kw_only=True)
class MaskedOptions(PieceOptions):
    """`hidden`: the share of a piece's tokens."""

    hidden: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.hidden <= 1:
            raise ValueError(f"hidden={self.hidden}: a share of the tokens, above 0 and at most 1")


def hide(teller: Teller, piece: Piece, draws: np.random.Generator, options: MaskedOptions) -> Found:
    length = len(piece.ids_L)
    places_N = np.sort(draws.choice(length, max(1, round(options.hidden * length)), replace=False))
    together = teller.together(piece.ids_L, places_N)
    alone = teller.alone(piece.ids_L, np.stack((places_N, places_N + 1), axis=1))
    right = sum(told.is_right[0] for told in together)
    return Found(right, len(places_N), sum(told.nll[0] for told in alone), int(piece.bytes_L[places_N].sum()))


MASKED = hiding_suite(
    "masked", MaskedOptions, hide, "Hidden tokens", "hidden", {"score": "told", "bits_per_byte": BITS}
)
