"""The share of a corpus that isn't trained on, so that a model can be judged by it.

A pure function of the documents' lengths, the share and the seed: whole documents in a drawn order, and of the last of
them as much from its end as is wanted. A document of which only parts are supervised is never cut.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handscroll.training import TokenRows, TokenView

# What the seed is for: the order of training is drawn from it, too.
HELD_OUT = 3


class Split(NamedTuple):
    """Documents to train on, and those to evaluate on."""

    training: TokenRows
    held_out: TokenRows


def hold_out(rows: TokenRows, share: float, seed: int) -> Split:
    """Sets `share` of all tokens apart. Raises ValueError where that is nothing, or everything."""
    tokens = int(rows.lengths_N.sum())
    left = round(share * tokens)
    # Where what is held out of each document begins.
    border_N = rows.lengths_N.copy()
    for number in np.random.default_rng([seed, HELD_OUT]).permutation(len(border_N)).tolist():
        if left < 2:
            break
        taken = int(rows.lengths_N[number])
        if not rows.is_masked:
            taken = min(taken, left)
        border_N[number] -= taken
        left -= taken
    trained_N, apart_N = np.flatnonzero(border_N > 0), np.flatnonzero(border_N < rows.lengths_N)
    if not len(trained_N) or not len(apart_N):
        what = "leaves nothing to train on" if len(apart_N) else "is too little to evaluate on"
        raise ValueError(
            f"data.held_out={share} of {len(border_N)} documents of {tokens} tokens {what}: give another share, or "
            "files of their own as data.eval"
        )
    return Split(
        TokenView(rows, trained_N, np.zeros_like(trained_N), border_N[trained_N]),
        TokenView(rows, apart_N, border_N[apart_N], rows.lengths_N[apart_N]),
    )
