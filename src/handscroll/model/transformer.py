"""The one network. Every architecture is a `ModelConfig` of it; a cache, if given, is its memory of earlier tokens.

Letters: B batch, T tokens, Q tokens of a row whose hidden states are wanted, E model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from handscroll.kernels.attention import KERNELS
from handscroll.model.attention import attention_kind, direct_memories
from handscroll.model.block import Block, Told
from handscroll.model.config import ModelConfig, chosen
from handscroll.model.embedding import Embedding
from handscroll.model.families import Source
from handscroll.model.heads import VocabularyHead, head_name, make_head
from handscroll.model.initialization import initialize
from handscroll.model.layout import Asking, Layout, pick
from handscroll.model.memory import Cache, Crossbatch, DirectMemory, LayerMemory
from handscroll.model.norm import make_norm
from handscroll.model.position import Relative, make_position
from handscroll.model.slots import GroupedQueryOptions


class Hidden(NamedTuple):
    """Hidden states after the last layer and the final norm, of all tokens or of those that were wanted (B, Q, E).

    Per layer, on request, its output and its attention weights; and what norms and feed-forwards told, in the order in
    which they were applied.
    """

    last_BTE: Tensor
    layers: tuple[Tensor, ...] = ()
    weights: tuple[Tensor, ...] = ()
    aux: tuple[Told, ...] = ()


class Transformer(nn.Module):
    """Embedding, `num_layers` blocks, a final norm, a language-model head.

    Weights are drawn from `seed`; None leaves them as they are, for a model that is about to be filled from a file.
    `source` is what `checkpoint.py` found in the folder that the model was read from, None for a new model.
    """

    def __init__(self, config: ModelConfig, seed: int | None = 0):
        super().__init__()
        self.config = config
        self.position = make_position(config)
        self.embedding = Embedding(config)
        self.layers = nn.ModuleList(
            Block(config, layer) for layer in range(1 if config.shared_layers else config.num_layers)
        )
        self.norm = make_norm(config) if config.has_final_norm else None
        self.head = make_head(config)
        self.activation_checkpointing = False
        self.attention_kernel = "fused"
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
        """The matrix that turns the head's features into logits. ValueError for a head that tells no tokens."""
        return self._vocabulary_head().matrix(self.embedding.weight)

    @property
    def output_bias_V(self) -> Tensor | None:
        """What is added to the logits; None: nothing. ValueError for a head that tells no tokens."""
        return self._vocabulary_head().bias

    def attend_by(self, kernel: str) -> None:
        """Chooses what computes attention wherever there is no cache, one of `KERNELS` (mutates).

        ValueError for an unknown one, and for one that can't do what the config asks for.
        """
        chosen("attention_kernel", kernel, dict.fromkeys(KERNELS, kernel))
        if kernel == "flash" and self.config.attention_dropout:
            raise ValueError(
                f"attention_kernel=flash never has all weights, to drop {self.config.attention_dropout} of them "
                "(attention dropout): use fused or naive, or drop none"
            )
        if kernel == "flash" and isinstance(self.position, Relative):
            raise ValueError(
                "attention_kernel=flash can't learn what relative positions add to each score: use fused or naive"
            )
        if kernel != "fused" and not isinstance(self.config.attention, GroupedQueryOptions):
            raise ValueError(
                f"attention_kernel={kernel} computes grouped_query attention, and this model has "
                f"attention={attention_kind(self.config)}, with a kernel of its own: use fused, the default"
            )
        self.attention_kernel = kernel

    def forward(self, tokens_BT: Tensor, layout: Layout | None = None, cache: Cache | None = None) -> Any:
        """int64 (B, T) -> what the head gives: of the vocabulary logits (B, T, V) in the model's dtype."""
        layout = self._layout(tokens_BT, cache) if layout is None else layout
        return self.head(self.hidden(tokens_BT, layout, cache).last_BTE, layout, self.embedding.weight)

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
        layout = self._layout(tokens_BT, cache) if layout is None else layout
        if self.config.mask != "prefix" and layout.prefix_BT is not None:
            # A memory knows the layout alone, not the model's mask.
            layout = replace(layout, prefix_BT=None)
        if cache is None:
            memories = self._direct(layout, crossbatch)
        else:
            assert crossbatch is None, "rows of a cache are strangers"
            self._check_cache(cache, layout)
            memories = cache.layers
        # A cache is mutated by attention: a block that is recomputed would append its tokens twice.
        recompute = self.activation_checkpointing and torch.is_grad_enabled() and cache is None
        # Statistics of a batch are those of all its tokens, whichever are wanted.
        picks_late = wanted_BQ is not None and self.training and self.config.has_running_norms
        last = None if wanted_BQ is None or picks_late else Asking(wanted_BQ, layout.pick(wanted_BQ))
        layers, weights, told = [], [], []
        x_BTE, aux = self.embedding.embed(tokens_BT, layout)
        if aux is not None:
            told.append(Told("embedding.norm", aux))
        blocks = repeat(self.layers[0]) if self.config.shared_layers else self.layers
        for number, (memory, block) in enumerate(zip(memories, blocks, strict=False)):
            asking = last if number == self.config.num_layers - 1 else None
            if recompute:
                output = checkpoint(block, x_BTE, memory, layout, asking, use_reentrant=False)
            else:
                output = block(x_BTE, memory, layout, asking)
            x_BTE = output.x_BTE
            place = 0 if self.config.shared_layers else number
            told += [Told(f"layers.{place}.{name}", aux) for name, aux in output.aux]
            if layout.capture.layers:
                layers.append(x_BTE)
            if output.weights_BHTS is not None:
                weights.append(output.weights_BHTS)
        if self.norm is not None:
            x_BTE, aux = self.norm(x_BTE, layout if last is None else last.layout)
            if aux is not None:
                told.append(Told("norm", aux))
        if wanted_BQ is not None and picks_late:
            x_BTE = pick(x_BTE, wanted_BQ)
        return Hidden(x_BTE, tuple(layers), tuple(weights), tuple(told))

    def features(self, hidden_BTE: Tensor) -> Tensor:
        """What `output_weight_VE` and `output_bias_V` make logits of, (..., E). ValueError as theirs."""
        return self._vocabulary_head().features(hidden_BTE)

    def logits(self, hidden_BTE: Tensor) -> Tensor:
        """(..., E) -> (..., V). ValueError for a head that tells no tokens."""
        return self._vocabulary_head().logits(hidden_BTE, self.embedding.weight)

    def _direct(self, layout: Layout, crossbatch: Crossbatch | None) -> Sequence[LayerMemory]:
        """What each layer attends to without a cache. ValueError where tokens can't look across rows."""
        dropout, kernel = self.config.attention_dropout if self.training else 0.0, self.attention_kernel
        memories = direct_memories(self.config, self.position, layout, dropout, kernel)
        if crossbatch is None:
            return memories
        if isinstance(self.position, Relative):
            raise ValueError("relative positions have no distance between rows: train without crossbatch")
        if not isinstance(self.config.attention, GroupedQueryOptions):
            raise ValueError(
                f"attention={attention_kind(self.config)}: only grouped_query attention can look across rows; "
                "train without crossbatch"
            )
        across = DirectMemory(self.position, layout, crossbatch, dropout=dropout, kernel=kernel)
        return [across if layer in crossbatch.layers else memory for layer, memory in enumerate(memories)]

    def _check_cache(self, cache: Cache, layout: Layout) -> None:
        """ValueError where this model sees more than the cache remembers."""
        if self.config.mask == "bidirectional":
            raise ValueError(
                "this model's tokens see what comes after them (mask=bidirectional): it can't continue a text that a "
                "cache remembers; let it read whole texts, without a cache"
            )
        if self.config.mask == "prefix" and not all(memory.reads_prefix for memory in cache.layers):
            raise ValueError(
                "this model reads what it continues in both directions (mask=prefix), and this way of remembering only "
                "what comes before: use full, or quantized or offloaded over full"
            )
        if layout.positions_BTP.shape[-1] > 1 and not all(memory.keeps_positions for memory in cache.layers):
            raise ValueError(
                "this cache has places of its own for tokens, and the layout has positions in several axes: use full, "
                "sliding_window or segment_recurrence, and positions that turn once or are added"
            )

    def _layout(self, tokens_BT: Tensor, cache: Cache | None) -> Layout:
        """Of full rows that continue those of the cache."""
        batch, length = tokens_BT.shape
        starts = cache.lengths if cache is not None else None
        return Layout.rows([length] * batch, starts, device=tokens_BT.device)

    def _vocabulary_head(self) -> VocabularyHead:
        if not isinstance(self.head, VocabularyHead):
            raise ValueError(
                f"head={head_name(self.config.head)} tells no tokens: generating and token likelihoods need a model "
                "with a head over the vocabulary"
            )
        return self.head
