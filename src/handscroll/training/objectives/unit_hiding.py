"""Which units of a batch are hidden: entities, phrases and basic units by shares (ERNIE, arXiv 1904.09223, 3.2).

What belongs to a unit was found when the text was tokenized (`text/units/`). A unit is drawn whole. Of each text a
share of its tokens is to be hidden; entities and phrases have shares of that, and basic units the rest, those within
entities and phrases among them. What a text has too few entities for its phrases make up, and basic units what it has
too few phrases for: as many tokens are hidden on average in every text.

Letters: N tokens of all texts, one after the other, X texts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from handscroll.text.units.marks import ENTITY, PHRASE, TOKEN, Mark, Marks

Places = NDArray[np.int64]
Booleans = NDArray[np.bool_]
# Of a text's entities, and of its phrases, at most this share is hidden: what names one must be left in sight.
MOST = 0.5


class Shares(NamedTuple):
    """Of all tokens those that are `masked`; of these, those that belong to the units of each level."""

    masked: float
    phrase: float
    entity: float


class Chosen(NamedTuple):
    """Which tokens are hidden; at which level each was drawn; the token that its unit begins with."""

    chosen_N: Booleans
    level_N: Places
    lead_N: Places


def choose_units(may_N: Booleans, marks_N: Marks, text_N: Places, shares: Shares, rng: torch.Generator) -> Chosen:
    """Draws units of the tokens that may be hidden; `text_N` numbers the texts. One unit where chance gives none."""
    count, texts = len(may_N), int(text_N[-1]) + 1
    draws = torch.rand(3, count, generator=rng, dtype=torch.float64).numpy()
    word_lead_N, lead_N = leads(marks_N, Mark.WORD), leads(marks_N, Mark.UNIT)
    chosen_N, level_N = np.zeros(count, dtype=bool), np.full(count, TOKEN)
    size_X, owed_X = np.bincount(text_N[may_N], minlength=texts), np.zeros(texts)
    of_level_N = marks_N & Mark.LEVEL
    for draw_N, level, share in zip(draws, (ENTITY, PHRASE), (shares.entity, shares.phrase), strict=False):
        of_N = may_N & (of_level_N == level)
        there_X, wanted_X = np.bincount(text_N[of_N], minlength=texts), share * shares.masked * size_X + owed_X
        rate_X = np.minimum(wanted_X / np.maximum(there_X, 1), MOST)
        owed_X = wanted_X - rate_X * there_X
        drawn_N = of_N & (draw_N[lead_N] < rate_X[text_N])
        chosen_N |= drawn_N
        level_N[drawn_N] = level
    left_N = may_N & ~chosen_N
    wanted_X = (1 - shares.entity - shares.phrase) * shares.masked * size_X + owed_X
    rate_X = wanted_X / np.maximum(np.bincount(text_N[left_N], minlength=texts), 1)
    drawn_N = left_N & (draws[2][word_lead_N] < rate_X[text_N])
    if not (chosen_N | drawn_N).any() and may_N.any():
        places = np.flatnonzero(may_N)
        place = places[int(torch.randint(len(places), (), generator=rng))]
        drawn_N = left_N & (word_lead_N == word_lead_N[place])
    return Chosen(chosen_N | drawn_N, level_N, np.where(drawn_N, word_lead_N, lead_N))


def leads(marks_N: Marks, begins: int) -> Places:
    """For each token the one that its unit begins with, by the mark that begins one; the first token begins one."""
    return np.maximum.accumulate(np.where(marks_N & begins > 0, np.arange(len(marks_N)), 0))
