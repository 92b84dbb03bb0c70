"""Pairs of texts for next-sentence prediction (BERT, arXiv 1810.04805, section 3.1 and appendix A.2).

A text is cut in two at the end of a sentence. In half of the pairs the second part is the one that follows, in the
others the end of another text of the batch. That one begins where a sentence does, reaches to its text's end as the
right one does, and is as long or little shorter: neither its length nor how it ends gives it away.

Knows ids and where sentences end. Two parts of one document that was too long for a window count as two texts; neither
continues the other within the batch. What is put between the parts is the objective's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Ids = NDArray[np.int64]
# The labels of BERT's checkpoints.
FOLLOWS, RANDOM = 0, 1


class Pair(NamedTuple):
    """Two texts and how they belong together; a text alone has neither."""

    first: Ids
    second: Ids | None = None
    label: int | None = None


def make_pairs(texts: Sequence[Ids], is_end_V: NDArray[np.bool_], rng: torch.Generator) -> list[Pair]:
    """A pair of each text, in order. A text of one sentence stays alone, and so does one that no other can be cut with.

    `is_end_V`: whether an entry of the vocabulary ends a sentence.
    """
    starts = [sentence_starts(ids, is_end_V) for ids in texts]
    several = [number for number, found in enumerate(starts) if len(found)]
    pairs = [Pair(ids) for ids in texts]
    if (count := len(several)) < 2:
        return pairs
    draws = torch.rand(count, 3, generator=rng, dtype=torch.float64).tolist()
    for place, (number, (cut, kind, other)) in enumerate(zip(several, draws, strict=True)):
        ids, found = texts[number], starts[number]
        border = int(found[int(cut * len(found))])
        pairs[number] = Pair(ids[:border], ids[border:], FOLLOWS)
        if kind < 0.5:
            offset = int(other * (count - 1))
            others = (several[(place + 1 + (offset + step) % (count - 1)) % count] for step in range(count - 1))
            ends = (end_of(texts[each], starts[each], len(ids) - border) for each in others)
            # Where every other end is too long the right one stays.
            taken = next((end for end in ends if end is not None), None)
            pairs[number] = pairs[number] if taken is None else Pair(ids[:border], taken, RANDOM)
    return pairs


def sentence_starts(ids: Ids, is_end_V: NDArray[np.bool_]) -> Ids:
    """Where sentences begin but the first: behind an end that no further end follows, as . and a line's do."""
    is_end_T = is_end_V[ids]
    return np.flatnonzero(is_end_T[:-1] & ~is_end_T[1:]) + 1


def end_of(ids: Ids, starts: Ids, length: int) -> Ids | None:
    """The longest end of a text, but never all of it, that begins with a sentence and has at most `length` tokens."""
    fitting = starts[len(ids) - starts <= length]
    return ids[fitting[0] :] if len(fitting) else None
