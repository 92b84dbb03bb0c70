"""Supervised fine-tuning: answers are supervised, what was asked is only read (InstructGPT, arXiv 2203.02155).

Which tokens are answers is not decided here: the chat template marks its generations, the text room turns the marks
into each row's mask, the assistant's tokens and the token that ends its turn. This adds to `causal_lm` that the mask
counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from handscroll.kernels.likelihood import CHUNK
from handscroll.training.batch import Batch, TokenRow, Window, collate
from handscroll.training.objectives.causal_lm import token_loss
from handscroll.training.objectives.objective import Loss, Models

WAY_OUT = "mark what the assistant says with {% generation %} in the chat template, or leave such rows out"


@dataclass(frozen=True)
class SFT:
    """Mean negative log-likelihood of the supervised tokens. Options as in `CausalLM`."""

    pad_id: int = 0
    window: int | None = None
    chunk: int = CHUNK

    def prepare(self, models: Models, rows: Sequence[TokenRow], rng: torch.Generator) -> Sequence[TokenRow]:
        """The rows as they are. Raises ValueError for a row without a mask, or with nothing supervised in it."""
        for number, row in enumerate(rows):
            if row.supervised is None:
                raise ValueError(
                    f"row {number} has no mask, and sft learns only what a mask marks: use causal_lm for plain text"
                )
            if not np.any(row.supervised[1:]):
                raise ValueError(f"row {number} ({len(row.ids)} tokens) supervises no token: {WAY_OUT}")
        return rows

    def make_batch(self, windows: Sequence[Window], rng: torch.Generator) -> Batch:
        batch = collate(windows, self.pad_id, self.window)
        if batch.supervised_tokens == 0:
            raise ValueError(f"none of the {batch.real_tokens} tokens of this batch is supervised: {WAY_OUT}")
        return batch

    def loss(self, models: Models, batch: Batch) -> Loss:
        return token_loss(models, batch, self.chunk)
