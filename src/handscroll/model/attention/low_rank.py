"""Low-rank attention (Linformer, arXiv 2006.04768): keys and values of a text are projected to `rank` mixtures of them.

Adds to grouped-query attention two matrices over the length, E for keys and F for values (equation 7): token j counts
E[r, j] in mixture r. Every token attends to the same `rank` mixtures, so that time and memory grow linearly. A mixture
holds tokens from all over the text: there is no causal form, and no longer text than the matrices are wide.

Letters: B batch, T tokens, H heads, K kv heads, D head width, R rank, L longest text, X documents of a row; P heads
with matrices of their own, K or 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handscroll.kernels.attention import attention, attention_with_weights
from handscroll.model.attention.blocks import places_in_text
from handscroll.model.attention.checks import refuse
from handscroll.model.attention.grouped_query import GroupedQueryAttention
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended, LayerMemory
from handscroll.model.position import Position, rotation_of
from handscroll.model.slots import AttentionOptions

SHARED = ("none", "heads", "key_value")


@dataclass(frozen=True, kw_only=True)
class LowRankOptions(AttentionOptions):
    """`rank` mixtures stand for all keys of a text of up to `max_positions` tokens.

    `shared` (section 4, "parameter sharing"): the heads share E and F ("heads"), and E is F, too ("key_value"), or each
    kv head has its own ("none").
    """

    rank: int = 128
    shared: Literal["none", "heads", "key_value"] = "heads"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank}: keys are projected to at least 1 mixture of them")
        if self.shared not in SHARED:
            raise ValueError(f"shared={self.shared!r} is not known; known: {', '.join(SHARED)}")

    def check(self, config: ModelConfig) -> None:
        refuse(config, "low-rank attention", masks=("bidirectional",), dropout=True)

    def further_matrices(self, config: ModelConfig) -> int:
        """E and F, R L each, for all heads or for each kv head."""
        return (
            {"none": 2 * config.num_kv_heads, "heads": 2, "key_value": 1}[self.shared]
            * self.rank
            * config.max_positions
        )

    def further_activations(self, config: ModelConfig) -> int:
        """The queries, once more."""
        return config.num_heads * config.head_width


class LowRankAttention(GroupedQueryAttention):
    """`e` and `f` are E and F, one below the other for each head that has its own; no `f` where E is F."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        options = config.attention
        assert isinstance(options, LowRankOptions)
        rows = options.rank * (config.num_kv_heads if options.shared == "none" else 1)
        self.rank = options.rank
        self.e = nn.Linear(config.max_positions, rows, bias=False)
        self.f_is_e = options.shared == "key_value"
        if not self.f_is_e:
            self.f = nn.Linear(config.max_positions, rows, bias=False)

    def attend(
        self,
        memory: LayerMemory,
        query_BHTD: Tensor,
        key_BKTD: Tensor,
        value_BKTD: Tensor,
        layout: Layout,
        asking: Layout | None,
    ) -> Attended:
        e_PRL, f_PRL = (
            torch.unflatten(matrix.weight, 0, (-1, self.rank)) for matrix in (self.e, self.e if self.f_is_e else self.f)
        )
        return cast(LowRankMemory, memory).attend_mixed(query_BHTD, key_BKTD, value_BKTD, e_PRL, f_PRL, layout)


class LowRankMemory:
    """Low-rank attention among the forward's own tokens. Stateless: one serves all layers."""

    some_may_ask = False
    reads_prefix = False
    keeps_positions = True

    def __init__(self, config: ModelConfig, position: Position, layout: Layout, dropout: float = 0.0):
        self.position, self.dropout = position, dropout
        self.rotation = rotation_of(position, layout)
        self.place_BT = places_in_text(layout)
        longest = int(self.place_BT.max()) + 1
        if longest > config.max_positions:
            raise ValueError(
                f"a text of {longest} tokens: low-rank attention has matrices for {config.max_positions} "
                "(max_positions); cut it, or train with a larger max_positions"
            )

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        raise AssertionError("low-rank attention hands over its matrices, too: attend_mixed")

    def attend_mixed(
        self,
        query_BHTD: Tensor,
        key_BKTD: Tensor,
        value_BKTD: Tensor,
        e_PRL: Tensor,
        f_PRL: Tensor,
        layout: Layout,
    ) -> Attended:
        """Softmax attention to the mixtures of each token's own text; weights (B, H, T, X * R) where captured."""
        query_BHTD = self.position.rotate(query_BHTD, self.rotation)
        key_BKTD = self.position.rotate(key_BKTD, self.rotation)
        key_BKSD, value_BKSD = self._mixed(key_BKTD, e_PRL, layout), self._mixed(value_BKTD, f_PRL, layout)
        mask = self._own_text(layout, e_PRL.shape[1])
        if layout.capture.weights:
            return Attended(*attention_with_weights(query_BHTD, key_BKSD, value_BKSD, mask, False))
        return Attended(attention(query_BHTD, key_BKSD, value_BKSD, mask, False, self.dropout), None)

    def _mixed(self, x_BKTD: Tensor, matrix_PRL: Tensor, layout: Layout) -> Tensor:
        """(B, K, X * R, D): the mixtures of each document, one document's after the other's. Padding counts nothing."""
        is_token_BT = self.place_BT >= 0
        share_PRBT = matrix_PRL[..., self.place_BT.clamp(min=0)] * is_token_BT
        share_BPRT = share_PRBT.permute(2, 0, 1, 3)
        if layout.document_BT is None:
            return share_BPRT.to(x_BKTD.dtype) @ x_BKTD
        own_BTX = F.one_hot(layout.document_BT.clamp(min=0)).to(x_BKTD.dtype)
        share_BPXRT = share_BPRT[:, :, None].to(x_BKTD.dtype) * own_BTX.transpose(1, 2)[:, None, :, None]
        return share_BPXRT.flatten(2, 3) @ x_BKTD

    def _own_text(self, layout: Layout, rank: int) -> Tensor | None:
        """(B, 1, T, X * R): whose mixtures a token sees; None where a row is one text."""
        if layout.document_BT is None:
            return None
        own_BTX = F.one_hot(layout.document_BT.clamp(min=0)).bool()
        return own_BTX.repeat_interleave(rank, dim=-1)[:, None]
