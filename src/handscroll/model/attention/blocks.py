"""The tokens of a layout in blocks that never hold two texts: packed documents are moved apart to blocks of their own.

A block's number in its text is then the same wherever the text stands, alone or packed, and what goes by blocks
(patterns, chunks of a recurrence, pooled keys) treats it alike. Each document costs at most one block more.

Letters: B batch, T tokens, S slots, N blocks, L tokens of a block, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from handscroll.model.layout import Layout


@dataclass(frozen=True)
class TextBlocks:
    """Slots in blocks of `length`. Rows that stand alike are described once: B is then 1.

    `place_BS`: the token's place in its own text, -1 in an empty slot. `first_BN`, `count_BN`: the block that each
    block's text begins with (it may lie before the first one of a text that is continued), and how many blocks up to
    its last one the text has. `slot_BT`: where each token went; None: token t is in slot t.
    """

    length: int
    place_BS: Tensor
    first_BN: Tensor
    count_BN: Tensor
    slot_BT: Tensor | None

    @property
    def slots(self) -> int:
        return self.place_BS.shape[1]

    @property
    def text_BN(self) -> Tensor:
        """Equal in blocks of one text: the block that it begins with."""
        return self.first_BN

    def spread(self, x_BHTD: Tensor) -> Tensor:
        """(B, H, S, D): tokens in their slots, zeros in empty ones."""
        tokens = x_BHTD.shape[2]
        if self.slot_BT is None:
            return F.pad(x_BHTD, (0, 0, 0, self.slots - tokens))
        batch, heads, _, width = x_BHTD.shape
        index_BHTD = self.slot_BT[:, None, :, None].expand(batch, heads, -1, width)
        return x_BHTD.new_zeros(batch, heads, self.slots, width).scatter(2, index_BHTD, x_BHTD)

    def collect(self, x_BHSD: Tensor, tokens: int) -> Tensor:
        """(B, H, T, D): the inverse of `spread`."""
        if self.slot_BT is None:
            return x_BHSD[:, :, :tokens]
        batch, heads, _, width = x_BHSD.shape
        return x_BHSD.gather(2, self.slot_BT[:, None, :, None].expand(batch, heads, -1, width))

    def in_slots(self, x_BT: Tensor, empty: int) -> Tensor:
        """(B, S): one number per token, `empty` where there is none."""
        x_BT = x_BT[: len(self.place_BS)]
        if self.slot_BT is None:
            return F.pad(x_BT, (0, self.slots - x_BT.shape[1]), value=empty)
        return x_BT.new_full(self.place_BS.shape, empty).scatter(1, self.slot_BT, x_BT)


def places_in_text(layout: Layout) -> Tensor:
    """(B, T): each token's place in its own text, counted from 0; -1 at padding.

    A packed document's tokens stand side by side, in order.
    """
    if layout.document_BT is None:
        return layout.index_BT
    starts_BT, _ = torch.where(_begins(layout), layout.index_BT, 0).cummax(1)
    return (layout.index_BT - starts_BT).masked_fill(layout.index_BT < 0, -1)


def text_blocks(layout: Layout, length: int) -> TextBlocks:
    """A layout's tokens in blocks of `length`."""
    if layout.document_BT is None and layout.starts is not None:
        return _rows(layout, length)
    return _packed(layout, length)


def _rows(layout: Layout, length: int) -> TextBlocks:
    """Every row is one text, from the block that its first token stands in."""
    assert layout.starts is not None
    index_BT = layout.index_BT[:1] if layout.stands_alike else layout.index_BT
    lead = [start % length for start in layout.starts[: len(index_BT)]]
    tokens = index_BT.shape[1]
    blocks = -(-(tokens + max(lead)) // length)
    slot_BT = None
    if any(lead):
        slot_BT = torch.arange(tokens, device=index_BT.device) + torch.tensor(lead, device=index_BT.device)[:, None]
    first_B = torch.tensor([-(start // length) for start in layout.starts[: len(index_BT)]], device=index_BT.device)
    first_BN = first_B[:, None].expand(-1, blocks)
    empty = TextBlocks(length, index_BT.new_empty(len(index_BT), blocks * length), first_BN, first_BN, slot_BT)
    place_BS = empty.in_slots(index_BT, -1)
    count_B1 = place_BS.amax(1, keepdim=True) // length + 1
    return TextBlocks(length, place_BS, first_BN, count_B1.expand(-1, blocks), slot_BT)


def _packed(layout: Layout, length: int) -> TextBlocks:
    """Each document, and what pads the row, from a new block on."""
    place_BT, begins_BT = places_in_text(layout), _begins(layout)
    batch, tokens = place_BT.shape
    document_BT = begins_BT.long().cumsum(1) - 1
    documents = int(document_BT.max()) + 1
    count_BX = place_BT.new_zeros(batch, documents).scatter_add(1, document_BT, torch.ones_like(place_BT))
    blocks_BX = -(-count_BX // length)
    first_BX = blocks_BX.cumsum(1) - blocks_BX
    arrival_BT = torch.arange(tokens, device=place_BT.device).expand(batch, -1)
    began_BT, _ = torch.where(begins_BT, arrival_BT, 0).cummax(1)
    slot_BT = first_BX.gather(1, document_BT) * length + arrival_BT - began_BT
    blocks = int(blocks_BX.sum(1).max())
    number_N = torch.arange(blocks, device=place_BT.device)
    # The document of each block: the last one that begins at or before it.
    owner_BN = (first_BX[:, None] <= number_N[:, None]).sum(-1) - 1
    first_BN, count_BN = first_BX.gather(1, owner_BN), blocks_BX.gather(1, owner_BN)
    empty = TextBlocks(length, place_BT.new_empty(batch, blocks * length), first_BN, count_BN, slot_BT)
    return TextBlocks(length, empty.in_slots(place_BT, -1), first_BN, count_BN, slot_BT)


def _begins(layout: Layout) -> Tensor:
    """(B, T): whether a document, or the padding, begins with this token."""
    document_BT = layout.index_BT if layout.document_BT is None else layout.document_BT
    text_BT = document_BT.masked_fill(layout.index_BT < 0, -1)
    if layout.document_BT is None:
        text_BT = text_BT.clamp(max=0)
    return F.pad(text_BT[:, 1:] != text_BT[:, :-1], (1, 0), value=True)
