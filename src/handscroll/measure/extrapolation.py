"""What a policy would cost at a length that was not read: estimated from what was measured, and kept apart from it.

Reading n tokens takes a n + b n^2 seconds: a for what every token costs, b for what a token costs for each token before
it. Bytes grow linearly. Both are fitted by least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handscroll.measure.reading import Chunk


@dataclass(frozen=True)
class Extrapolation:
    """Estimates at `tokens`, from a measurement of the first `measured_tokens`: a and b as in a n + b n^2 seconds."""

    tokens: int
    measured_tokens: int
    seconds: float
    device_bytes: int
    host_bytes: int
    a: float
    b: float


def extrapolate_chunks(chunks: Sequence[Chunk], tokens: int) -> Extrapolation:
    """Estimates for reading `tokens` tokens. ValueError where nothing was measured."""
    if not chunks:
        raise ValueError("nothing was measured, so nothing can be extrapolated: read at least one chunk first")
    start, end, seconds = (
        np.array([getattr(chunk, name) for chunk in chunks], dtype=np.float64) for name in ("start", "end", "seconds")
    )
    a, b = _fit(np.stack((end - start, end**2 - start**2), axis=1), seconds)
    held = {}
    for name in ("device_bytes", "host_bytes"):
        measured = np.array([getattr(chunk, name) for chunk in chunks], dtype=np.float64)
        per_token, constant = _fit(np.stack((end, np.ones_like(end)), axis=1), measured)
        held[name] = round(per_token * tokens + constant)
    return Extrapolation(tokens, int(end[-1]), a * tokens + b * tokens**2, **held, a=a, b=b)


def _fit(terms_N2: NDArray[np.float64], measured_N: NDArray[np.float64]) -> tuple[float, float]:
    """Least squares without negative coefficients: noise never makes a longer text cheaper.

    A single measurement is explained by the first term alone.
    """
    if len(terms_N2) > 1:
        scale_2 = terms_N2.max(axis=0)
        first, second = np.linalg.lstsq(terms_N2 / scale_2, measured_N, rcond=None)[0] / scale_2
        if second >= 0 and first >= 0:
            return float(first), float(second)
        if first < 0:
            return 0.0, max(0.0, _single(terms_N2[:, 1], measured_N))
    return max(0.0, _single(terms_N2[:, 0], measured_N)), 0.0


def _single(term_N: NDArray[np.float64], measured_N: NDArray[np.float64]) -> float:
    return float(term_N @ measured_N / (term_N @ term_N))
