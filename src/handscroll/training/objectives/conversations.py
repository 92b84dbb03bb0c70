"""Real and fake conversations (ERNIE's dialogue language model, arXiv 1904.09223, section 3.3).

In half of the conversations one response is replaced by a response of another conversation of the batch; the model
judges which conversations are real. A conversation has any order of queries and responses, such as QRQ, QQR or QRR. It
can be judged if a response stands in it behind another turn.

Knows ids and where turns begin. What conversations are framed with is the objective's business.

Letters: N tokens of all texts, one after the other, W windows, X texts, U turns, F texts that are to be fakes, R
responses that can be taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from handscroll.kernels.likelihood import IGNORE
from handscroll.text.units.marks import Mark, Marks
from handscroll.training.batch import TokenRow

REAL, FAKE = 0, 1
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts one after the other, with their units, and how many tokens each has."""

    ids_N: Numbers
    marks_N: Marks
    length_X: Numbers

    @classmethod
    def joined(cls, rows: Sequence[TokenRow]) -> Texts:
        """Rows that have their units."""
        marks = [row.units for row in rows if row.units is not None]
        assert len(marks) == len(rows), "prepare has looked"
        lengths = [len(row.ids) for row in rows]
        return cls(np.concatenate([row.ids for row in rows]), np.concatenate(marks), np.array(lengths))

    @cached_property
    def start_X(self) -> Numbers:
        return np.cumsum(self.length_X) - self.length_X

    @cached_property
    def text_N(self) -> Numbers:
        """Which text each token is of."""
        return np.repeat(np.arange(len(self.length_X)), self.length_X)


class Turns(NamedTuple):
    """Where each begins and how long it is. `can_fake`: a response behind another turn of its text."""

    start_U: Numbers
    length_U: Numbers
    text_U: Numbers
    is_response_U: NDArray[np.bool_]
    can_fake_U: NDArray[np.bool_]


def judged(texts: Texts, window_X: Numbers, sep: int, rng: torch.Generator) -> tuple[Texts, Numbers]:
    """The texts, some with another response, and of each REAL, FAKE, or IGNORE where it can't be judged.

    A response of another text fits if it is whole, closed by `sep`, if it says something else, and if it is no longer
    than there is room: `window_X` is the window of each text, and no window becomes longer than the longest one is; its
    fakes share what room it has. Where none fits the real one stays.
    """
    turns = turns_of(texts)
    answers = np.flatnonzero(turns.can_fake_U)
    count_X = np.bincount(turns.text_U[answers], minlength=len(texts.length_X))
    label_X = np.where(count_X > 0, REAL, IGNORE)
    whole_R = np.flatnonzero(turns.is_response_U & (texts.ids_N[turns.start_U + turns.length_U - 1] == sep))
    if not len(whole_R):
        return texts, label_X
    kind_X, which_X, other_X = torch.rand(3, len(count_X), generator=rng, dtype=torch.float64).numpy()
    text_F = np.flatnonzero((count_X > 0) & (kind_X < 0.5))
    turn_F = answers[(np.cumsum(count_X) - count_X + (which_X * count_X).astype(np.int64))[text_F]]
    longest_F = turns.length_U[turn_F] + _room(texts, window_X, sep, text_F)
    said_U = _said(texts, turns)
    fits_FR = turns.length_U[whole_R] <= longest_F[:, None]
    fits_FR &= turns.text_U[whole_R] != text_F[:, None]
    fits_FR &= said_U[whole_R] != said_U[turn_F][:, None]
    fitting_FR = fits_FR.cumsum(1)
    number_F = (other_X[text_F] * fitting_FR[:, -1]).astype(np.int64) + 1
    other_F = whole_R[(fitting_FR == number_F[:, None]).argmax(1)]
    is_fake_F = fitting_FR[:, -1] > 0
    label_X[text_F[is_fake_F]] = FAKE
    taken_U = np.arange(len(turns.start_U))
    taken_U[turn_F[is_fake_F]] = other_F[is_fake_F]
    return _exchanged(texts, turns, taken_U), label_X


def turns_of(texts: Texts) -> Turns:
    """The turns, and parts of turns, of all texts; one that is no conversation is a turn, and no response."""
    is_first_N = np.zeros(len(texts.ids_N), dtype=bool)
    is_first_N[texts.start_X] = True
    start_U = np.flatnonzero(is_first_N | (texts.marks_N & Mark.TURN > 0))
    is_response_U = texts.marks_N[start_U] & Mark.RESPONSE > 0
    length_U = np.diff(np.append(start_U, len(texts.ids_N)))
    return Turns(start_U, length_U, texts.text_N[start_U], is_response_U, is_response_U & ~is_first_N[start_U])


def _room(texts: Texts, window_X: Numbers, sep: int, text_F: Numbers) -> Numbers:
    """By how many tokens each fake may be longer than the real text."""
    # With what opens each text, and closes one that was cut.
    framed_X = texts.length_X + 1 + (texts.ids_N[texts.start_X + texts.length_X - 1] != sep)
    used_W = np.bincount(window_X, framed_X).astype(np.int64)
    fakes_W = np.bincount(window_X[text_F], minlength=len(used_W))
    room_W: Numbers = (used_W.max() - used_W) // np.maximum(fakes_W, 1)
    return room_W[window_X[text_F]]


def _said(texts: Texts, turns: Turns) -> Numbers:
    """A number for the words of each turn. Others rarely have the same one, and are then no choice for each other."""
    place_N = np.arange(1, len(texts.ids_N) + 1) - np.repeat(turns.start_U, turns.length_U)
    said_U: Numbers = np.add.reduceat((texts.ids_N + 1) * place_N, turns.start_U)
    return said_U


def _exchanged(texts: Texts, turns: Turns, taken_U: Numbers) -> Texts:
    """Each turn with the words of turn `taken_U`."""
    length_U = turns.length_U[taken_U]
    before_U = np.cumsum(length_U) - length_U
    place_N = np.arange(int(length_U.sum())) + np.repeat(turns.start_U[taken_U] - before_U, length_U)
    length_X = np.bincount(turns.text_U, length_U, minlength=len(texts.length_X)).astype(np.int64)
    return Texts(texts.ids_N[place_N], texts.marks_N[place_N], length_X)
