"""The one network. Every architecture is a `ModelConfig` of it; a cache, if given, is its memory of earlier tokens.

Letters: B batch, T tokens, Q tokens of a row whose hidden states are wanted, E model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from handscroll.model.attention import ATTENTIONS
from handscroll.model.config import ModelConfig, chosen
from handscroll.model.families import Source
from handscroll.model.feedforward import FEEDFORWARDS
from handscroll.model.initialization import initialize
from handscroll.model.layout import Asking, Layout, pick
from handscroll.model.memory import Cache, Crossbatch, DirectMemory, LayerMemory
from handscroll.model.norm import NORMS
from handscroll.model.position import make_position


class Hidden(NamedTuple):
    """Hidden states after the final norm, of all tokens or of those that were wanted (B, Q, E).

    Per layer, on request, its output and its attention weights.
    """

    last_BTE: Tensor
    layers: tuple[Tensor, ...] = ()
    weights: tuple[Tensor, ...] = ()


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)): pre-norm (arXiv 2002.04745)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        norm = chosen("norm", config.norm, NORMS)
        self.attention_norm = norm(config.width, config.norm_eps)
        self.attention = chosen("attention", config.attention, ATTENTIONS)(config)
        self.feedforward_norm = norm(config.width, config.norm_eps)
        self.feedforward = chosen("feedforward", config.feedforward, FEEDFORWARDS)(config)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self, x_BTE: Tensor, memory: LayerMemory, layout: Layout, asking: Asking | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, E) in and out; with `asking` (B, Q, E) out: the other tokens give only their keys and values.

        Of some memories all tokens ask all the same: what these remember depends on it.
        """
        normed_BTE, _ = self.attention_norm(x_BTE, layout)
        attended_BTE, weights_BHTS = self.attention(normed_BTE, memory, layout, asking if memory.some_may_ask else None)
        if asking is not None:
            x_BTE, layout = pick(x_BTE, asking.places_BQ), asking.layout
            attended_BTE = attended_BTE if memory.some_may_ask else pick(attended_BTE, asking.places_BQ)
        x_BTE = x_BTE + self.dropout(attended_BTE)
        normed_BTE, _ = self.feedforward_norm(x_BTE, layout)
        fed_BTE, _ = self.feedforward(normed_BTE, layout)
        return x_BTE + self.dropout(fed_BTE), weights_BHTS


class Transformer(nn.Module):
    """Embedding, `num_layers` blocks, a final norm, a language-model head.

    Weights are drawn from `seed`; None leaves them as they are, for a model that is about to be filled from a file.
    `source` is what `checkpoint.py` found in the folder that the model was read from, None for a new model.
    """

    def __init__(self, config: ModelConfig, seed: int | None = 0):
        super().__init__()
        self.config = config
        self.position = make_position(config)
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = chosen("norm", config.norm, NORMS)(config.width, config.norm_eps)
        if not config.tied_embeddings:
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.activation_checkpointing = False
        self.source: Source | None = None
        if seed is not None:
            initialize(self, seed)
        # Only a trainer drops: it says train() and, when it is done, eval().
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def output_weight_VE(self) -> Tensor:
        """The matrix that turns hidden states into logits: the embedding's own where they are tied."""
        return self.embedding.weight if self.config.tied_embeddings else self.head.weight

    def forward(self, tokens_BT: Tensor, layout: Layout | None = None, cache: Cache | None = None) -> Tensor:
        """int64 (B, T) -> logits (B, T, V) in the model's dtype."""
        return self.logits(self.hidden(tokens_BT, layout, cache).last_BTE)

    def hidden(
        self,
        tokens_BT: Tensor,
        layout: Layout | None = None,
        cache: Cache | None = None,
        wanted_BQ: Tensor | None = None,
        crossbatch: Crossbatch | None = None,
    ) -> Hidden:
        """Hidden states before the head. With a cache the tokens continue its rows, and it is mutated.

        `wanted_BQ` (int64): the places in each row whose hidden states are returned, in that order. No layer follows
        the last one, so that it attends, where the memory allows it, and feeds forward from these places alone.
        `crossbatch`: tokens that look across rows, in layers before the last; only without a cache.
        """
        if layout is None:
            batch, length = tokens_BT.shape
            starts = cache.lengths if cache is not None else None
            layout = Layout.rows([length] * batch, starts, device=tokens_BT.device)
        dropout = self.config.attention_dropout if self.training else 0.0
        memories: Sequence[LayerMemory] = self._direct(layout, dropout) if cache is None else cache.layers
        # A cache is mutated by attention: a block that is recomputed would append its tokens twice.
        recompute = self.activation_checkpointing and torch.is_grad_enabled() and cache is None
        last = None if wanted_BQ is None else Asking(wanted_BQ, layout.pick(wanted_BQ))
        if crossbatch is not None:
            assert cache is None, "rows of a cache are strangers"
            across = DirectMemory(self.position, layout, crossbatch, dropout=dropout)
            memories = [across if layer in crossbatch.layers else memory for layer, memory in enumerate(memories)]
        layers, weights = [], []
        x_BTE = self.dropout(self.embedding(tokens_BT))
        for number, (block, memory) in enumerate(zip(self.layers, memories, strict=True), 1):
            asking = last if number == len(self.layers) else None
            if recompute:
                x_BTE, weights_BHTS = checkpoint(block, x_BTE, memory, layout, asking, use_reentrant=False)
            else:
                x_BTE, weights_BHTS = block(x_BTE, memory, layout, asking)
            if layout.capture.layers:
                layers.append(x_BTE)
            if weights_BHTS is not None:
                weights.append(weights_BHTS)
        last_BTE, _ = self.norm(x_BTE, layout if last is None else last.layout)
        return Hidden(last_BTE, tuple(layers), tuple(weights))

    def _direct(self, layout: Layout, dropout: float) -> list[LayerMemory]:
        """What each layer attends to without a cache; layers that see equally far share one."""
        windows = [self.config.window_of(layer) for layer in range(len(self.layers))]
        made = {window: DirectMemory(self.position, layout, window=window, dropout=dropout) for window in set(windows)}
        return [made[window] for window in windows]

    def logits(self, hidden_BTE: Tensor) -> Tensor:
        """(..., E) -> (..., V)."""
        return F.linear(hidden_BTE, self.output_weight_VE)
