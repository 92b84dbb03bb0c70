"""A forward, cut where tiles of the text begin: for policies whose state changes there, whatever the caller's chunks.

Letters: B rows, T tokens.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from handscroll.model.layout import Layout


class Piece(NamedTuple):
    """Tokens of a forward that stand within one tile in every row: their places in it, and their layout."""

    span: slice
    layout: Layout


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
