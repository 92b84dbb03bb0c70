"""A layer that keeps some keys of a text, for each kv head its own, where they stood.

Adds to `full_layer.py` that a slot is no place in the text. Where keys are turned once nothing else follows; where
positions weigh distances (ALiBi, relative ones), turn anew as a text grows (dynamic NTK, LongRoPE) or a layer has a
window of its own, the layer remembers which places its keys were kept from. What follows them is kept as it comes.

Letters: B rows, T queries, S slots, N kept slots, H heads, K kv heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from handscroll.kvcache.archive import nbytes
from handscroll.kvcache.full_layer import FullLayer
from handscroll.kvcache.keeping import keep
from handscroll.kvcache.layered import PerForward
from handscroll.kvcache.state import State
from handscroll.kvcache.store import TokenStore
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Bytes
from handscroll.model.position import Position, Rotation, of_heads


class Served(NamedTuple):
    """Which of a layer's query heads are served, how many of them share a kv head, and how far they see."""

    heads: slice
    group: int
    window: int | None

    @classmethod
    def of(cls, config: ModelConfig, layer: int, kv_heads: slice = slice(None)) -> Self:
        first, last, _ = kv_heads.indices(config.num_kv_heads)
        group = config.num_heads // config.num_kv_heads
        return cls(slice(group * first, group * last), group, config.window_of(layer))


class Met(NamedTuple):
    """A row's latest queries and its keys, turned as they meet; `mask` (1, 1 or H, T, S) of some of the queries.

    A mask is as `attention` takes it: what is seen, or what is added to scores.
    """

    query_HTD: Tensor
    key_KSD: Tensor
    mask: Callable[[slice], Tensor]


class KeptLayer(FullLayer):
    """For some kv heads: `kept`, of each row, are the places (K, N) in the text of its first N slots."""

    def __init__(self, position: Position, store: TokenStore, shared: PerForward, served: Served):
        super().__init__(of_heads(position, served.heads), store, shared)
        self.group, self.window, self.first_head = served.group, served.window, served.heads.start
        self.kept: list[Tensor | None] = [None] * len(store.lengths)

    @property
    def keeps(self) -> None:
        """A row may need all of its text: a window decides what is seen, not what is held."""

    @property
    def looks_at_places(self) -> bool:
        """Whether it matters where in the text a key was kept from, now that it has been turned."""
        return self.position.depends_on_length or self.weighs or self.window is not None

    def keep(self, slots: Sequence[Tensor | None]) -> None:
        """Of each row only these slots (K, N) stay, rising; None: all of them (mutates)."""
        if self.looks_at_places:
            self.kept = [
                kept_KN if slots_KN is None else self.places(row, slots_KN).int()
                for row, (kept_KN, slots_KN) in enumerate(zip(self.kept, slots, strict=True))
            ]
        keep(self.store, slots)

    def places(self, row: int, slots: Tensor) -> Tensor:
        """(K, S), or `slots` themselves (S,) or (K, S) where none has moved: their places in the text."""
        kept_KN = self.kept[row]
        if kept_KN is None:
            return slots
        last = kept_KN.shape[1] - 1
        slots_KS = slots.expand(len(kept_KN), -1)
        kept_KS = kept_KN.gather(1, slots_KS.clamp(0, last))
        # The latest token always stays, so that those behind it follow its place.
        return torch.where(slots_KS <= last, kept_KS, kept_KN[:, -1:] + (slots_KS - last))

    def slot_positions(self, layout: Layout, index_BS: Tensor) -> Tensor:
        """(B, K, S), or (B, S) where no slot has moved."""
        slots_BS = index_BS.clamp(min=0)
        if all(kept_KN is None for kept_KN in self.kept):
            return slots_BS
        heads = max(len(kept_KN) for kept_KN in self.kept if kept_KN is not None)
        return torch.stack([self.places(row, slots_S).expand(heads, -1) for row, slots_S in enumerate(slots_BS)])

    def rotation(self, layout: Layout, positions: Tensor) -> Rotation:
        """That of positions (B, S) or (B, K, S) in the layout's texts."""
        if not self.position.depends_on_length:
            return self.position.rotation(positions)
        lengths_B1 = self.text_lengths(layout)
        return self.position.rotation(positions, lengths_B1[..., None] if positions.dim() == 3 else lengths_B1)

    def sees_all(self, used: int) -> bool:
        return self.window is None or (used <= self.window and all(kept_KN is None for kept_KN in self.kept))

    def visible(self, layout: Layout, index_BS: Tensor) -> Tensor:
        """(B, 1, T, S), or (B, H, T, S) where heads see different slots: of a window some kept more than others."""
        seen_B1TS = super().visible(layout, index_BS)
        if self.window is None:
            return seen_B1TS
        places = self.slot_positions(layout, index_BS)
        places_BKS = places if places.dim() == 3 else places[:, None]
        near_BKTS = layout.positions_BTP[:, None, :, :1] - places_BKS[:, :, None] < self.window
        near = near_BKTS | (layout.index_BT < 0)[:, None, :, None]
        return seen_B1TS & (near if near.shape[1] == 1 else near.repeat_interleave(self.group, 1))

    def meet(self, row: int, query_HTD: Tensor, key_KSD: Tensor, end: int, total: int) -> Met:
        """A row's queries up to position `end`, as they came, and its keys, as held, in a text of `total` tokens."""
        alone, asking, stored = copy(self), query_HTD.shape[1], key_KSD.shape[1]
        alone.kept = [self.kept[row]]
        text = Layout.rows([asking], [stored - asking], totals=[total], device=key_KSD.device)
        text = replace(text, positions_BTP=text.positions_BTP + (end - stored))
        slots_1S = torch.arange(stored, device=key_KSD.device)[None]
        query_1HTD = self.position.rotate(query_HTD[None], alone.token_rotation(text, text))
        if self.rotates_at_use:
            key_KSD = self.position.rotate(key_KSD[None], alone.slot_rotation(text, slots_1S))[0]

        def mask(span: slice) -> Tensor:
            part = text.part(span)
            seen = alone.visible(part, slots_1S)
            return alone.with_bias(seen, text, part, slots_1S, query_1HTD[:, :, span]) if self.weighs else seen

        return Met(self.asked(query_1HTD)[0], key_KSD, mask)

    def bytes(self) -> Bytes:
        stored = super().bytes()
        places = nbytes(*(kept_KN for kept_KN in self.kept if kept_KN is not None))
        return Bytes(stored.device + places, stored.host)

    def select(self, rows: Sequence[int], shared: PerForward) -> Self:
        chosen = super().select(rows, shared)
        chosen.kept = [self.kept[row] for row in rows]
        return chosen

    def join(self, other: Self, shared: PerForward) -> Self:
        joined = super().join(other, shared)
        joined.kept = self.kept + other.kept
        return joined

    def state(self) -> State:
        return super().state() | {"kept": self.kept}

    def restore(self, state: State, device: torch.device) -> None:
        super().restore(state, device)
        self.kept = [None if kept_KN is None else kept_KN.to(device) for kept_KN in state.get("kept", self.kept)]
