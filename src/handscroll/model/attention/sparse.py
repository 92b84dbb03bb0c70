"""Sparse attention: each token attends to a pattern of few others (`pattern.py`), in blocks and never N x N.

Projects as grouped-query attention does; what differs is what the forward's own tokens see. Time and memory grow
linearly with the text. Dilated windows cost as much as undilated ones that reach as far.

Letters: B batch, T tokens, S slots (N blocks of L), H heads, K kv heads, D head width, G global queries of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from handscroll.kernels.attention import additive, attention, attention_with_weights
from handscroll.kernels.block_sparse import block_sparse_attention
from handscroll.model.attention.blocks import TextBlocks, places_in_text, text_blocks
from handscroll.model.attention.pattern import SparseOptions, block_table, dense_mask
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended
from handscroll.model.position import Position, bias_of, rotation_of


class SparseMemory:
    """Sparse attention among the forward's own tokens. Stateless: one serves all layers."""

    some_may_ask = False
    reads_prefix = False
    keeps_positions = True

    def __init__(self, config: ModelConfig, position: Position, layout: Layout, dropout: float = 0.0):
        assert isinstance(config.attention, SparseOptions)
        self.options, self.causal, self.position = config.attention, config.mask == "causal", position
        self.rotation = rotation_of(position, layout)
        self.blocks = text_blocks(layout, self.options.block)
        self.table_BNM, self.mask = block_table(self.options, self.causal, self.blocks)
        if position.adds_bias:
            self.mask = self._with_bias(layout)

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        assert asking is None, "all tokens ask"
        query_BHTD = self.position.rotate(query_BHTD, self.rotation)
        key_BKTD = self.position.rotate(key_BKTD, self.rotation)
        if layout.capture.weights:
            mask = self._dense(layout)
            return Attended(*attention_with_weights(query_BHTD, key_BKTD, value_BKTD, mask, False))
        query, key, value = (self.blocks.spread(x) for x in (query_BHTD, key_BKTD, value_BKTD))
        out_BHSD = block_sparse_attention(query, key, value, self.table_BNM, self.mask)
        if self.options.global_tokens and not self.causal:
            out_BHSD = self._answer_globals(out_BHSD, query, key, value, layout)
        return Attended(self.blocks.collect(out_BHSD, query_BHTD.shape[2]), None)

    def _answer_globals(
        self, out_BHSD: Tensor, query_BHSD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, layout: Layout
    ) -> Tensor:
        """`out_BHSD`, anew for the queries that see all of their text."""
        place_BS = self.blocks.place_BS
        is_global_BS = (place_BS >= 0) & (place_BS < self.options.global_tokens)
        slots_BG = is_global_BS.long().argsort(dim=1, descending=True, stable=True)[:, : int(is_global_BS.sum(1).max())]
        text_BS = self.blocks.first_BN.repeat_interleave(self.blocks.length, 1)
        mask_BGS = (text_BS.gather(1, slots_BG)[..., None] == text_BS[:, None]) & (place_BS >= 0)[:, None]
        asks_BG = is_global_BS.gather(1, slots_BG)
        mask: Tensor = (mask_BGS | ~asks_BG[..., None])[:, None]
        if self.position.adds_bias:
            positions_BS = self.blocks.in_slots(layout.positions_BTP[..., 0], 0)
            lengths = layout.text_lengths() if self.position.depends_on_length else None
            if lengths is not None and lengths.shape[1] > 1:
                lengths = self.blocks.in_slots(lengths, 1).gather(1, slots_BG)
            mask = additive(self.position.bias(positions_BS.gather(1, slots_BG), positions_BS, lengths), mask, False)
        batch, heads, _, width = query_BHSD.shape
        slots_BHGD = slots_BG[:, None, :, None].expand(batch, heads, -1, width)
        answered = attention(query_BHSD.gather(2, slots_BHGD), key_BKSD, value_BKSD, mask, False)
        answered = torch.where(asks_BG[:, None, :, None], answered, out_BHSD.gather(2, slots_BHGD))
        return out_BHSD.scatter(2, slots_BHGD, answered)

    def _dense(self, layout: Layout) -> Tensor:
        """(B, 1 or H, T, T): the whole pattern, for those who want the weights."""
        mask_BTS = sparse_mask(self.options, self.causal, layout)
        if not self.position.adds_bias:
            return mask_BTS[:, None]
        return additive(bias_of(self.position, layout), mask_BTS[:, None], False)

    def _with_bias(self, layout: Layout) -> Tensor:
        """(B, H, N, L, M * L): the mask with the position's bias in it."""
        blocks, (batch, number, listed) = self.blocks, self.table_BNM.shape
        positions_BNL = blocks.in_slots(layout.positions_BTP[..., 0], 0).view(batch, number, -1)
        gathered_BXL = self.table_BNM.flatten(1)[..., None].expand(-1, -1, blocks.length)
        keys = positions_BNL.gather(1, gathered_BXL).view(batch * number, listed * blocks.length)
        lengths = layout.text_lengths()[:batch] if self.position.depends_on_length else None
        if lengths is not None:
            lengths_BT = lengths.expand(-1, layout.index_BT.shape[1])
            lengths = blocks.in_slots(lengths_BT, 0).view(batch, number, -1).amax(-1).view(-1, 1)
        bias = self.position.bias(positions_BNL.flatten(0, 1), keys, lengths)
        masked = additive(bias, self.mask.flatten(0, 1)[:, None], False)
        return torch.unflatten(masked, 0, (batch, number)).transpose(1, 2)


def sparse_mask(options: SparseOptions, causal: bool, layout: Layout) -> Tensor:
    """(B, T, T), boolean: the pattern among all tokens of a layout, and among no two of different documents."""
    place_BT = places_in_text(layout)
    blocks: TextBlocks = text_blocks(layout, options.block)
    count_BS = blocks.count_BN.repeat_interleave(options.block, 1)
    slot_BT = blocks.slot_BT
    count_BT = count_BS[:, : place_BT.shape[1]] if slot_BT is None else count_BS.gather(1, slot_BT)
    mask_BTS = dense_mask(options, causal, place_BT, place_BT, count_BT.expand_as(place_BT))
    if layout.document_BT is not None:
        mask_BTS &= (layout.document_BT[:, :, None] == layout.document_BT[:, None]) | (place_BT < 0)[..., None]
    return mask_BTS
