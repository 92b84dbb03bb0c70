"""Supervised fine-tuning: answers are supervised, what was asked is only read (InstructGPT, arXiv 2203.02155).

Which tokens are answers is not decided here: the chat template marks its generations, the text room turns the marks
into each row's mask, the assistant's tokens and the token that ends its turn. This adds to `causal_lm` that the mask
counts and, on request, that answers are looked for in all windows of the batch.

Letters: B windows, T tokens, Q tokens that look into other windows, S = B * T tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from handscroll.kernels.likelihood import CHUNK, IGNORE
from handscroll.model import Crossbatch, Layout
from handscroll.training.batch import Batch, TokenRow, Window, collate
from handscroll.training.objectives.causal_lm import token_loss
from handscroll.training.objectives.objective import Loss, Models, TokenLoss

WAY_OUT = "mark what the assistant says with {% generation %} in the chat template, or leave such rows out"


@dataclass(frozen=True)
class SFT(TokenLoss):
    """Mean negative log-likelihood of the supervised tokens. `pad_id`, `window`, `chunk` as in `CausalLM`.

    `crossbatch` names layers, 0 the first and never the last, in which answers also see what stands before the first
    answer of every other window: what a memory of a long text finds is full of near misses, and windows of one's own
    hold few (crossbatch training of Focused Transformer, arXiv 2307.03170, section 3.2; in one batch, keys rotated at
    the places they have). They see none that is nearer than `crossbatch_distance` tokens: what a memory finds stands
    behind its local window, and a strange question right before an answer looks like the answer's own.
    At most `crossbatch_tokens` supervised tokens of a batch do so, drawn at random: each costs attention to the whole
    batch. Windows shorter than `crossbatch_from` see only themselves.
    """

    pad_id: int = 0
    window: int | None = None
    chunk: int = CHUNK
    crossbatch: tuple[int, ...] = ()
    crossbatch_tokens: int = 512
    crossbatch_distance: int = 0
    crossbatch_from: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(layer < 0 for layer in self.crossbatch):
            raise ValueError(f"crossbatch={self.crossbatch}: layers are counted from 0")
        if self.crossbatch_tokens < 1:
            raise ValueError(f"crossbatch_tokens={self.crossbatch_tokens}: at least 1 token, or no crossbatch layers")
        if self.crossbatch_distance < 0:
            raise ValueError(f"crossbatch_distance={self.crossbatch_distance}: a number of tokens, 0 or more")

    def prepare(self, models: Models, rows: Sequence[TokenRow], rng: torch.Generator) -> Sequence[TokenRow]:
        """The rows as they are. Raises ValueError for a row without a mask, or with nothing supervised in it."""
        if self.crossbatch and max(self.crossbatch) >= (last := models["model"].config.num_layers - 1):
            raise ValueError(f"crossbatch={self.crossbatch}: this model's layers before the last are 0 to {last - 1}")
        if self.crossbatch and (window := models["model"].config.sliding_window) is not None:
            raise ValueError(
                f"crossbatch={self.crossbatch}: other windows are further away than the {window} tokens that this "
                "model sees (sliding_window): leave crossbatch out"
            )
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
        if self.crossbatch and batch.tokens_BT.shape[1] >= self.crossbatch_from:
            across = look_across(batch, self.crossbatch, self.crossbatch_tokens, self.crossbatch_distance, rng)
            return replace(batch, crossbatch=across)
        return batch

    def loss(self, models: Models, batch: Batch) -> Loss:
        return token_loss(models, batch, self.chunk, self)


def look_across(batch: Batch, layers: tuple[int, ...], tokens: int, distance: int, rng: torch.Generator) -> Crossbatch:
    """Up to `tokens` supervised places, which see their own window as ever and of others what precedes any answer.

    Of other windows they see what stands at least `distance` places before their own.
    """
    is_supervised_BT = batch.targets_BT != IGNORE
    places_S = is_supervised_BT.flatten().nonzero()[:, 0]
    asking_Q = places_S[torch.randperm(len(places_S), generator=rng)[:tokens].sort().values]
    index_BT, document_BT = batch.layout.index_BT, batch.layout.document_BT
    # A target belongs to the place before it: the place that predicts an answer's first token still is context.
    is_context_BT = (is_supervised_BT.cumsum(dim=1) - is_supervised_BT.long() == 0) & (index_BT >= 0)
    windows, length = index_BT.shape
    window_S = torch.arange(windows).repeat_interleave(length)
    # All windows as one row, in which every document of every window keeps to itself.
    document_S = window_S * length + (0 if document_BT is None else document_BT.flatten())
    row = Layout.packed(index_BT.reshape(1, -1), batch.layout.positions_BTP[..., 0].reshape(1, -1), document_S[None])
    own_11QS = row.mask(row.pick(asking_Q[None]))
    assert own_11QS is not None, "packed documents need a mask"
    place_S = torch.arange(length).repeat(windows)
    is_other_QS = window_S[asking_Q][:, None] != window_S
    is_far_QS = place_S <= place_S[asking_Q][:, None] - distance
    return Crossbatch(layers, asking_Q, own_11QS[0, 0] | (is_other_QS & is_far_QS & is_context_BT.flatten()))
