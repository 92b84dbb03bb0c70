"""Which policy has which colour: the same in every figure and in every report."""

from __future__ import annotations

from collections.abc import Sequence

from handscroll.measure.report.drawing import SERIES
from handscroll.measure.results import PolicyResult

POLICY_SERIES = {"block_memory": 0, "full": 1, "sliding_window": 2}


def colours(results: Sequence[PolicyResult]) -> list[str]:
    """A colour for each result."""
    return policy_colours([result.policy["policy"] for result in results])


def policy_colours(kinds: Sequence[str]) -> list[str]:
    """A colour for each policy, given by its bare name: known ones have their own, further ones what is left."""
    taken: set[int] = set()
    chosen = []
    for kind in kinds:
        wanted = POLICY_SERIES.get(kind)
        free = [number for number in range(len(SERIES)) if number not in taken and number not in POLICY_SERIES.values()]
        number = wanted if wanted is not None and wanted not in taken else (free or [len(SERIES) - 1])[0]
        taken.add(number)
        chosen.append(SERIES[number])
    return chosen
