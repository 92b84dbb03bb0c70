"""Blanks in a text, and what fills them: the input and targets of autoregressive blank infilling.

The text with a mask token in the place of each span (part A) is followed by the spans in some order (part B), each
begun by a start token and ended by an end token (GLM, arXiv 2103.10360, section 2.1 and figure 2). `corrupt` is a pure
function of a text and its spans; which spans are taken is `spans.py`'s business. `collate_blanks` lays such rows side
by side. Part A sees itself whole; a token of part B sees part A and what of part B came before it.

Letters: L tokens of the text, N spans, T tokens of both parts or of a window, P = 2 position axes, B windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from handscroll.kernels.likelihood import IGNORE
from handscroll.model import Layout
from handscroll.training.batch import Batch

Integers = NDArray[np.int64]


class BlankTokens(NamedTuple):
    """The ids of what stands in a blank's place, and around what fills it."""

    mask: int
    start: int
    end: int


class Corrupted(NamedTuple):
    """Both parts in one row. The target of a token is what follows it within its span, IGNORE in part A.

    `positions_TP`: the place in part A, of a span's tokens that of its blank; and the place within the span, counted
    from 1, the start token's; 0 in part A. `prefix`: how many tokens part A has, all of which all of it sees.
    """

    tokens_T: Integers
    targets_T: Integers
    positions_TP: Integers
    prefix: int

    @property
    def hidden(self) -> int:
        """Tokens of the text that part A lacks: each span has its start token beside them."""
        return len(self.tokens_T) - self.prefix - int((self.positions_TP[:, 1] == 1).sum())


def corrupt(ids_L: Integers, spans_N2: Integers, order_N: Integers, marks: BlankTokens) -> Corrupted:
    """Part A and, spans in `order_N`, part B. `spans_N2`: first token and the one behind the last, in the text's order.

    Spans have a token at least and don't overlap.
    """
    starts_N, stops_N = spans_N2.T
    assert (starts_N < stops_N).all() and (stops_N[:-1] <= starts_N[1:]).all(), "spans have tokens of their own"
    length, sizes_N = len(ids_L), stops_N - starts_N
    # Of a span its first place is kept, for the mask token.
    borders = np.zeros(length + 1, dtype=np.int64)
    borders[starts_N] += 1
    borders[stops_N] -= 1
    is_blank_L = np.zeros(length, dtype=bool)
    is_blank_L[starts_N] = True
    is_kept_L = (np.cumsum(borders)[:-1] == 0) | is_blank_L
    part_a = np.where(is_blank_L, marks.mask, ids_L)[is_kept_L]
    places_N = (np.cumsum(is_kept_L) - 1)[starts_N]

    starts_N, sizes_N, places_N = starts_N[order_N], sizes_N[order_N], places_N[order_N]
    # One token more than the span has: its start token, or as a target its end token.
    counts_N = sizes_N + 1
    span_of = np.repeat(np.arange(len(counts_N)), counts_N)
    within = np.arange(len(span_of)) - (np.cumsum(counts_N) - counts_N)[span_of]
    place = starts_N[span_of] + within
    inputs = np.where(within == 0, marks.start, ids_L[np.maximum(place - 1, 0)])
    targets = np.where(within == sizes_N[span_of], marks.end, ids_L[np.minimum(place, length - 1)])

    prefix = len(part_a)
    axes_a = np.stack((np.arange(prefix), np.zeros(prefix, dtype=np.int64)), axis=1)
    axes_b = np.stack((places_N[span_of], within + 1), axis=1)
    return Corrupted(
        np.concatenate((part_a, inputs)),
        np.concatenate((np.full(prefix, IGNORE), targets)),
        np.concatenate((axes_a, axes_b)),
        prefix,
    )


def collate_blanks(windows: Sequence[Sequence[Corrupted]], pad_id: int = 0, window: int | None = None) -> Batch:
    """Each window's rows one after the other, without seeing each other, padded to `window` (None: the longest's).

    ValueError for a window that holds more.
    """
    totals = [sum(len(each.tokens_T) for each in inner) for inner in windows]
    shape = (len(windows), window or max(totals))
    if max(totals) > shape[1]:
        raise ValueError(f"a window holds {max(totals)} tokens, more than window={shape[1]}: raise window")
    tokens_BT, targets_BT = np.full(shape, pad_id), np.full(shape, IGNORE)
    index_BT, document_BT = np.full(shape, -1), np.full(shape, -1)
    positions_BTP, prefix_BT = np.zeros((*shape, 2), dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for b, inner in enumerate(windows):
        start = 0
        index_BT[b, : totals[b]] = np.arange(totals[b])
        for number, each in enumerate(inner):
            place = slice(start, start + len(each.tokens_T))
            tokens_BT[b, place], targets_BT[b, place] = each.tokens_T, each.targets_T
            positions_BTP[b, place], document_BT[b, place] = each.positions_TP, number
            prefix_BT[b, place] = start + each.prefix
            start = place.stop
    arrays = (tokens_BT, targets_BT, index_BT, positions_BTP, document_BT, prefix_BT)
    tokens, targets, index, positions, document, prefix = map(torch.from_numpy, arrays)
    return Batch(tokens, Layout(index, positions, document, prefix_BT=prefix), targets)
