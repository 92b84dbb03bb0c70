"""A forward, cut where tiles of the text begin: for policies whose state changes there, whatever the caller's chunks.

Letters: B rows, T tokens, S slots, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from handscroll.model.layout import Layout
from handscroll.model.memory import Attended


class Piece(NamedTuple):
    """Tokens of a forward that stand within one tile in every row: their places in it, and their layout."""

    span: slice
    layout: Layout


def side_by_side(attended: Sequence[Attended], slots: int) -> Attended:
    """What the pieces of a forward read, as that of the whole; weights over as many slots as a row can ever have."""
    weights = [widened(each.weights_BHTS, slots) for each in attended if each.weights_BHTS is not None]
    out_BHTD = torch.cat([each.out_BHTD for each in attended], dim=2)
    return Attended(out_BHTD, torch.cat(weights, dim=2) if weights else None)


def widened(weights_BHTS: Tensor, slots: int) -> Tensor:
    """(B, H, T, `slots`): weights of 0 behind those that there are."""
    return F.pad(weights_BHTS, (0, slots - weights_BHTS.shape[-1]))


def pieces(layout: Layout, tile: int) -> list[Piece]:
    """A forward, cut wherever a row's tile begins; texts are as long as in the whole."""
    assert layout.starts is not None and layout.lengths is not None, "a cache needs rows, not packed windows"
    size = layout.index_BT.shape[1]
    rows = list(zip(layout.starts, layout.lengths, strict=True))
    ends = [start + length for start, length in rows]
    totals = tuple(map(max, ends, layout.totals or ends))
    edges = {0, size}
    for start, length in rows:
        edges.update(range(tile - start % tile, length, tile))
    found = []
    for first, last in pairwise(sorted(edges)):
        span = slice(first, last)
        piece = replace(
            layout,
            index_BT=layout.index_BT[:, span],
            positions_BTP=layout.positions_BTP[:, span],
            starts=tuple(start + min(first, length) for start, length in rows),
            lengths=tuple(min(max(length - first, 0), last - first) for _, length in rows),
            totals=totals,
        )
        found.append(Piece(span, piece))
    return found
