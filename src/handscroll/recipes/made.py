"""What an objective that hides tokens makes of rows, as text to look at: what stands there, and what it hides.

Knows batches as an objective makes them. Leaves rows to `documents.py` and colours to the command line.

T tokens of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handscroll.kernels.likelihood import IGNORE
from handscroll.text import Tokenizer
from handscroll.text.units import LEVELS
from handscroll.training import Objective, TokenRow
from handscroll.training.objectives.ernie import LEVEL
from handscroll.training.randomness import generator


class Piece(NamedTuple):
    """Neighbouring tokens as text, all of them learnt or none; `hides` is what stood where they stand.

    `level`: that of the unit which they are (`text/units/`), where the objective hides units.
    """

    text: str
    supervised: bool
    hides: str | None = None
    level: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in self._asdict().items() if value is not None}


class Made(NamedTuple):
    """A row as a window of its own: its tokens, how many places tell something, their text, and further labels."""

    tokens: int
    supervised: int
    pieces: list[Piece]
    labels: dict[str, list[int]]


def make(objective: Objective, rows: Sequence[TokenRow], tokenizer: Tokenizer, seed: int) -> Iterator[Made]:
    """A batch of a window per row, drawn from `seed`. Raises ValueError where nothing can be learnt from them."""
    batch = objective.make_batch([[row] for row in rows], generator(seed))
    is_real_BT = (batch.layout.index_BT >= 0).numpy()
    for window, is_real_T in enumerate(is_real_BT):
        ids_T, targets_T = (x_BT[window].numpy()[is_real_T] for x_BT in (batch.tokens_BT, batch.targets_BT))
        if objective.needs.is_shifted:
            told_T, hidden_T = np.append(False, targets_T[:-1] != IGNORE), None
            # A span's start is given; what stands at the place before it tells the end of another.
            told_T &= ids_T != tokenizer.role_id("span_start")
        else:
            told_T, hidden_T = targets_T != IGNORE, targets_T
        labels = {name: labels_BT[window].numpy()[is_real_T] for name, labels_BT in batch.labels.items()}
        levels = [None if level == IGNORE else LEVELS[level] for level in labels.pop(LEVEL, [])]
        yield Made(
            len(ids_T),
            int(told_T.sum()),
            list(_pieces(ids_T.tolist(), told_T.tolist(), hidden_T, levels or [None] * len(ids_T), tokenizer)),
            {name: labels_T[labels_T != IGNORE].tolist() for name, labels_T in labels.items()},
        )


def _pieces(
    ids: Sequence[int],
    told: Sequence[bool],
    hidden_T: NDArray[np.int64] | None,
    levels: Sequence[str | None],
    tokenizer: Tokenizer,
) -> Iterator[Piece]:
    start = 0
    for (is_told, level), run in groupby(zip(told, levels, strict=True)):
        stop = start + len([*run])
        before = ids[max(0, start - 1) : start]
        hides = _after(before, hidden_T[start:stop].tolist(), tokenizer) if is_told and hidden_T is not None else None
        yield Piece(_after(before, ids[start:stop], tokenizer), is_told, hides, level)
        start = stop


def _after(before: Sequence[int], ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of tokens after another, with the space between the two where the vocabulary has one there."""
    first, both = tokenizer.decode(before), tokenizer.decode([*before, *ids])
    return both[len(first) :] if both.startswith(first) else tokenizer.decode(ids)
