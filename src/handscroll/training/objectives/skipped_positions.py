"""Skipped positions (PoSE, arXiv 2309.10400, section 3.2): short windows that stand as if they were long.

A window is cut into chunks of random lengths, and each chunk's positions are moved on by a random skip, so that within
one short window a token meets distances of the whole length that the model is stretched to. Attention costs what the
short window costs. Wraps any objective: what is supervised, and with what loss, is that one's business.

Letters: B windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from handscroll.training.batch import Batch, TokenRow, Window
from handscroll.training.objectives.objective import Loss, Models, Needs, Objective


@dataclass(frozen=True)
class SkippedPositions:
    """Positions up to `to` - 1, in `chunks` chunks a window; the paper's two reach every distance."""

    objective: Objective
    to: int
    chunks: int = 2

    def __post_init__(self) -> None:
        if self.chunks < 2:
            raise ValueError(f"chunks={self.chunks}: positions are skipped between chunks, so there must be 2 or more")

    @property
    def needs(self) -> Needs:
        return self.objective.needs

    def prepare(self, models: Models, rows: Sequence[TokenRow], rng: torch.Generator) -> Sequence[TokenRow]:
        return self.objective.prepare(models, rows, rng)

    def make_batch(self, windows: Sequence[Window], rng: torch.Generator) -> Batch:
        batch = self.objective.make_batch(windows, rng)
        layout = batch.layout
        length = layout.index_BT.shape[1]
        if length > self.to:
            raise ValueError(f"a window of {length} tokens can't be spread over {self.to} positions: make it shorter")
        skips_BT = torch.stack([skips(length, self.to, self.chunks, rng) for _ in windows])
        totals = None if layout.starts is None else (self.to,) * len(windows)
        # Only places in the text are far apart, not those in a span.
        axes_P = torch.arange(layout.positions_BTP.shape[-1]) == 0
        skipped = replace(layout, positions_BTP=layout.positions_BTP + skips_BT[..., None] * axes_P, totals=totals)
        return replace(batch, layout=skipped)

    def loss(self, models: Models, batch: Batch) -> Loss:
        return self.objective.loss(models, batch)


def skips(length: int, to: int, chunks: int, rng: torch.Generator) -> Tensor:
    """(T,): by how much each position of a window is moved on: 0 in the first chunk, never less than before it.

    Borders are drawn without replacement, a chunk's skip uniformly from the one before it to `to` - `length` (equation
    2), so that the window's last position is `to` - 1 at most. With fewer tokens than chunks each token is a chunk.
    """
    borders = torch.randperm(length - 1, generator=rng)[: chunks - 1].sort().values + 1
    skip, skips_T = 0, torch.zeros(length, dtype=torch.int64)
    for border in borders.tolist():
        skip = int(torch.randint(skip, to - length + 1, (), generator=rng))
        skips_T[border:] = skip
    return skips_T
