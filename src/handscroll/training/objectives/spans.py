"""Which spans of a text become blanks: short ones, whole sentences, or the end of a document.

The three tasks of GLM (arXiv 2103.10360, sections 2.1 and 2.1.2). Lengths of short spans are drawn from a Poisson
distribution, as SpanBERT and BART have it, without 0 and without what is longer than LONGEST. Pure functions of
lengths and a generator: no token is looked at.

Letters: N spans, each its first token and the one behind its last, in the text's order.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
LONGEST = 40


def short_spans(length: int, share: float, mean: float, most: int, rng: np.random.Generator) -> Integers:
    """(N, 2): spans drawn until they hold `share` of the tokens, at any place, a token at least between two.

    Fewer where there would be more than `most`. In a text of fewer than 2 LONGEST tokens none is longer than half of
    it, so that something is left to tell it by.
    """
    goal = max(1, math.ceil(share * length))
    sizes = np.searchsorted(_cumulative(mean), rng.random(goal), side="right") + 1
    sizes = np.minimum(sizes, max(1, length // 2))
    held = np.cumsum(sizes)
    numbers = np.arange(1, len(sizes) + 1)
    count = min(int(np.searchsorted(held, goal)) + 1, int((numbers <= length - held + 1).sum()), most)
    sizes = sizes[:count]
    # Of the places before, between and behind the tokens that stay each takes one span at most.
    left = length - int(sizes.sum())
    gaps = np.sort(rng.choice(left + 1, count, replace=False))
    starts = gaps + np.cumsum(sizes) - sizes
    return np.stack((starts, starts + sizes), axis=1)


def sentence_spans(is_end_L: NDArray[np.bool_], share: float, most: int, rng: np.random.Generator) -> Integers | None:
    """(N, 2): whole sentences, at random, until they hold `share` of the tokens; never all. None: there is but one.

    `is_end_L`: tokens that end a sentence; several in a row end one.
    """
    ends = np.flatnonzero(is_end_L & ~np.append(is_end_L[1:], False)) + 1
    length = len(is_end_L)
    borders = np.concatenate(([0], ends if len(ends) and ends[-1] == length else np.append(ends, length)))
    if len(borders) < 3:
        return None
    order = rng.permutation(len(borders) - 1)
    held = np.cumsum((borders[1:] - borders[:-1])[order])
    count = min(int(np.searchsorted(held, share * length)) + 1, len(order) - 1, most)
    chosen = np.sort(order[:count])
    return np.stack((borders[chosen], borders[chosen + 1]), axis=1)


def last_span(length: int, rng: np.random.Generator) -> Integers:
    """(1, 2): the end of a text, from half of it to all of it, each length as likely as another."""
    size = int(rng.integers((length + 1) // 2, length + 1))
    return np.array([[length - size, length]])


def probabilities(mean: float) -> NDArray[np.float64]:
    """Of 1 to LONGEST tokens: Poisson's, divided by their sum."""
    numbers = np.arange(1, LONGEST + 1)
    logs = numbers * math.log(mean) - np.cumsum(np.log(numbers))
    weights = np.exp(logs - logs.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


@lru_cache(maxsize=8)
def _cumulative(mean: float) -> NDArray[np.float64]:
    cumulative: NDArray[np.float64] = np.cumsum(probabilities(mean))
    # Rounding may leave the last one below 1, and a draw above it.
    cumulative[-1] = 1.0
    return cumulative


def most_spans(length: int, share: float, mean: float) -> int:
    """As many spans as a text of this length has but in one of a thousand cases: three deviations above their mean.

    The number of draws until a sum is reached, by the central limit theorem of renewals.
    """
    if not length:
        return 0
    sizes, shares = np.arange(1, LONGEST + 1), probabilities(mean)
    average = float((sizes * shares).sum())
    variance = float((sizes**2 * shares).sum()) - average**2
    draws = share * length / average
    return math.ceil(draws + 1 + 3 * math.sqrt(draws * variance) / average)
