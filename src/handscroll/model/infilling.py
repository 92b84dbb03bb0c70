"""Where tokens stand when spans of a text are filled in: GLM's layout (arXiv 2103.10360, section 2.2 and figure 2).

A row is part A, the text with one mask in the place of each span, and behind it part B, the spans in any order, each
begun by a start token. Part A sees itself whole; a token of part B sees part A and what of part B came before it. The
first axis of positions is the place in part A, for a span that of its mask; the second is 0 in part A, and 1, 2, ...
within a span, so that a model isn't told how long the span is that it fills.

Knows lengths only. Which spans are cut out, and what becomes of them, is an objective's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from handscroll.model.layout import Layout


class Span(NamedTuple):
    """`place`: that of its mask in part A. `tokens`: how many stand in part B, the start token among them."""

    place: int
    tokens: int


class Infilling(NamedTuple):
    """One row: tokens of part A, and the spans of part B in their order there."""

    text: int
    spans: tuple[Span, ...]

    @property
    def length(self) -> int:
        return self.text + sum(span.tokens for span in self.spans)


def infilling_layout(
    rows: Sequence[Infilling], *, size: int | None = None, device: torch.device | str = "cpu"
) -> Layout:
    """Rows right-padded to `size` (the longest), for a model whose mask is `prefix`: positions in two axes (B, T, 2).

    ValueError for a span that has no place in its text, or no token.
    """
    size = max(row.length for row in rows) if size is None else size
    index_BT = torch.full((len(rows), size), -1)
    positions_BTP = torch.zeros(len(rows), size, 2, dtype=torch.int64)
    for number, row in enumerate(rows):
        for span in row.spans:
            if not 0 <= span.place < row.text or span.tokens < 1:
                raise ValueError(
                    f"{span} of a text of {row.text} tokens: it needs a place from 0 on in it, and a token"
                )
        places = [torch.arange(row.text), *(torch.full((span.tokens,), span.place) for span in row.spans)]
        within = [torch.zeros(row.text, dtype=torch.int64), *(torch.arange(span.tokens) + 1 for span in row.spans)]
        index_BT[number, : row.length] = torch.arange(row.length)
        positions_BTP[number, : row.length] = torch.stack((torch.cat(places), torch.cat(within)), dim=-1)
    return Layout(
        index_BT.to(device),
        positions_BTP.to(device),
        starts=(0,) * len(rows),
        lengths=tuple(row.length for row in rows),
        prefix_BT=torch.tensor([[row.text] for row in rows], device=device),
    )
