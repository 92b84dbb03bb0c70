"""Scores against the depth of what was asked for, in equal bins from the text's beginning to its end."""

from __future__ import annotations

from collections.abc import Iterable

from handscroll.measure.recall import DEPTH_BINS


def by_depth(scored: Iterable[tuple[float | None, float]], bins: int = DEPTH_BINS) -> list[list[float]]:
    """[sum of scores, questions] for each bin, of (depth, score); what has no depth is left out."""
    counted = [[0.0, 0.0] for _ in range(bins)]
    for depth, score in scored:
        if depth is not None:
            bin_ = counted[min(bins - 1, int(depth * bins))]
            bin_[0] += score
            bin_[1] += 1
    return counted


def shares(counted: Iterable[tuple[float, float] | list[float]]) -> list[float | None]:
    """The mean score of each bin; None where nobody asked."""
    return [total / number if number else None for total, number in counted]
