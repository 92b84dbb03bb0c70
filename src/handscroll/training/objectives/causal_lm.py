"""Causal language modelling: every next token of a document is supervised, as in pretraining (GPT, Radford 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from handscroll.kernels.likelihood import CHUNK, IGNORE, cross_entropy_sum
from handscroll.training.batch import Batch, TokenRow, Window, collate
from handscroll.training.objectives.objective import Loss, Models, Term, TokenLoss, told_places
from handscroll.training.objectives.router import joined


@dataclass(frozen=True)
class CausalLM(TokenLoss):
    """Mean negative log-likelihood of every token given those before it in its document; masks are not looked at.

    `window` pads every batch to that many tokens; None pads to its longest window. `chunk` tokens of logits are held at
    a time.
    """

    pad_id: int = 0
    window: int | None = None
    chunk: int = CHUNK

    def prepare(self, models: Models, rows: Sequence[TokenRow], rng: torch.Generator) -> Sequence[TokenRow]:
        """The rows without their masks. Raises ValueError for a row of one token: it has no next one."""
        for row in rows:
            if len(row.ids) < 2:
                raise ValueError(f"a row of {len(row.ids)} tokens has no next token to learn: leave it out")
        return [TokenRow(row.ids) for row in rows]

    def make_batch(self, windows: Sequence[Window], rng: torch.Generator) -> Batch:
        batch = collate([[TokenRow(row.ids) for row in rows] for rows in windows], self.pad_id, self.window)
        if batch.supervised_tokens == 0:
            raise ValueError("no token of this batch has a next one: give documents of at least 2 tokens")
        return batch

    def loss(self, models: Models, batch: Batch) -> Loss:
        return token_loss(models, batch, self.chunk, self)


def token_loss(models: Models, batch: Batch, chunk: int, options: TokenLoss) -> Loss:
    """The terms that every next-token objective shares: likelihood of supervised targets of `models["model"]`, routers.

    The last layer's router decides, and is judged, on the supervised places alone where these are few.
    """
    model, targets_BT = models["model"], batch.targets_BT
    wanted_BQ = told_places(targets_BT != IGNORE)
    if wanted_BQ is not None:
        targets_BT = targets_BT.gather(1, wanted_BQ)
    hidden = model.hidden(batch.tokens_BT, batch.layout, wanted_BQ=wanted_BQ, crossbatch=batch.crossbatch)
    total, count, nll, _ = cross_entropy_sum(
        model.features(hidden.last_BTE.flatten(0, 1)),
        model.output_weight_VE,
        targets_BT.flatten(),
        bias_V=model.output_bias_V,
        chunk=chunk,
        label_smoothing=options.label_smoothing,
        z_loss=options.z_loss,
    )
    is_plain = options.label_smoothing == options.z_loss == 0
    metrics = {} if is_plain else {"nll": float(nll) / max(count, 1)}
    return joined({"likelihood": Term(total, count)}, metrics, hidden, model)
