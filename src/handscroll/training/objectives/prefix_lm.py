"""Prefix language modelling: the beginning of a text is read in both directions, the rest is predicted.

As in T5's comparison (arXiv 1910.10683, section 3.2.1). What is read is a random part of a text, each length as likely
as another; of a row with a mask all that stands before its first supervised token, such as the prompt of a completion,
and of what follows the supervised tokens alone are learnt. Needs a model of mask=prefix.

Letters: B windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from handscroll.kernels.likelihood import CHUNK
from handscroll.training.batch import Batch, TokenRow, Window, collate
from handscroll.training.objectives.causal_lm import token_loss
from handscroll.training.objectives.objective import Loss, Models, Needs, TokenLoss
from handscroll.training.randomness import numbers_of


@dataclass(frozen=True)
class PrefixLM(TokenLoss):
    """Mean negative log-likelihood of what follows the prefix. `pad_id`, `window`, `chunk` as in `CausalLM`."""

    needs: ClassVar[Needs] = Needs(masks=("prefix",))

    pad_id: int = 0
    window: int | None = None
    chunk: int = CHUNK

    def prepare(self, models: Models, rows: Sequence[TokenRow], rng: torch.Generator) -> Sequence[TokenRow]:
        """The rows as they are. Raises ValueError for a row of one token, and for a mask that marks nothing."""
        for number, row in enumerate(rows):
            if len(row.ids) < 2:
                raise ValueError(f"a row of {len(row.ids)} tokens has no next token to learn: leave it out")
            if row.supervised is not None and not np.any(row.supervised[1:]):
                raise ValueError(f"row {number} ({len(row.ids)} tokens) has a mask that marks no token: leave it out")
        return rows

    def make_batch(self, windows: Sequence[Window], rng: torch.Generator) -> Batch:
        draws = numbers_of(rng)
        prefixes = [[_prefix(row, draws) for row in rows] for rows in windows]
        split = [
            [_behind(row, prefix) for row, prefix in zip(rows, inner, strict=True)]
            for rows, inner in zip(windows, prefixes, strict=True)
        ]
        batch = collate(split, self.pad_id, self.window)
        if batch.supervised_tokens == 0:
            raise ValueError("no token of this batch follows a prefix: give documents of at least 2 tokens")
        prefix_BT = np.zeros(batch.tokens_BT.shape, dtype=np.int64)
        for b, (rows, inner) in enumerate(zip(windows, prefixes, strict=True)):
            counts = np.array([len(row.ids) for row in rows])
            ends = np.cumsum(counts) - counts + inner
            prefix_BT[b, : counts.sum()] = np.repeat(ends, counts)
        return replace(batch, layout=replace(batch.layout, prefix_BT=torch.from_numpy(prefix_BT)))

    def loss(self, models: Models, batch: Batch) -> Loss:
        return token_loss(models, batch, self.chunk, self)


def _prefix(row: TokenRow, draws: np.random.Generator) -> int:
    """How many tokens of a row are read before the first is told; of a row of one token that one."""
    if row.supervised is not None and len(row.ids) > 1:
        return 1 + int(np.argmax(np.asarray(row.supervised)[1:]))
    return int(draws.integers(1, max(2, len(row.ids))))


def _behind(row: TokenRow, prefix: int) -> TokenRow:
    """The row with a mask that leaves out its prefix."""
    follows = np.arange(len(row.ids)) >= prefix
    return TokenRow(row.ids, follows if row.supervised is None else follows & np.asarray(row.supervised, dtype=bool))
