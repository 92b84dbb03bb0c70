"""A layer that keeps every token where it stood in the text, and attends to what its queries can see.

Keys are rotated once, at insertion: nothing ever moves. Where positions turn differently in a longer text (dynamic NTK,
LongRoPE) keys are kept unrotated and all of them are rotated at each use, by the length that the text has by then.

Letters: B rows, T tokens, S slots, H heads, K kv heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from handscroll.kernels.attention import additive
from handscroll.kernels.piecewise import Piece, attention_over, goes_fused
from handscroll.kvcache.layered import LayerCache, PerForward, attend
from handscroll.kvcache.state import State
from handscroll.kvcache.store import TokenStore
from handscroll.model.layout import Layout, visible
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position, RelativeLayer, Rotation, rotation_at

# Places of a mask that is made whole. Where it would be larger, keys are attended to in pieces: those that all queries
# see need none, so that a text may be of any length. Where none of them needs one, pieces are the faster way where
# a fused kernel takes them, too.
MASKED, UNMASKED = 1 << 25, 1 << 20


class FullLayer(LayerCache):
    some_may_ask = True
    reads_prefix = True
    # How many tokens a query sees, itself among them; None: all before it.
    window: int | None = None
    # The first of the heads that are served: others weigh distances otherwise.
    first_head = 0

    def __init__(self, position: Position, store: TokenStore, shared: PerForward):
        self.position = position
        self.store = store
        self.shared = shared

    @property
    def keeps(self) -> int | None:
        """As many tokens as a row ever needs; None: all of its text."""
        return self.window

    def steps(self, layout: Layout) -> Sequence[tuple[slice, Layout]]:
        """The parts of a forward that are remembered one after the other."""
        return [(slice(None), layout)]

    @property
    def rotates_at_use(self) -> bool:
        """Whether keys are kept as they came, and turned anew at each use."""
        return self.position.depends_on_length

    @property
    def keeps_positions(self) -> bool:
        """What turns or weighs slots goes by their place in the text alone."""
        return not (self.rotates_at_use or self.weighs)

    @property
    def weighs(self) -> bool:
        """Whether distance adds to scores; what it adds is the same in all layers unless a query decides it."""
        return self.position.adds_bias or isinstance(self.position, RelativeLayer)

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self.store.lengths)

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        rotation = self.shared.get(layout, "rotation", lambda: self.token_rotation(layout, layout))
        kept_BKTD = key_BKTD if self.rotates_at_use else self.position.rotate(key_BKTD, rotation)
        self.append(kept_BKTD, value_BKTD, layout)
        query_layout = asking or layout
        if asking is not None:
            rotation = self.token_rotation(layout, asking)
        query_BHTD = self.position.rotate(query_BHTD, rotation)
        if self.store.is_whole and not self._masks_too_much(query_layout, query_BHTD):
            attended = self._attend_to_all(query_BHTD, layout, query_layout)
        else:
            attended = self._attend_to_pieces(query_BHTD, layout, query_layout)
        self.store.settle()
        return attended

    def _masks_too_much(self, layout: Layout, query_BHTD: Tensor) -> bool:
        length = query_BHTD.shape[2]
        if length == 1 or (self._is_plain(layout) and not self.weighs):
            return False
        most = UNMASKED if goes_fused(query_BHTD) and self._is_causal(layout) else MASKED
        return length * self.store.used > most

    def _is_causal(self, layout: Layout) -> bool:
        """Whether the tokens stand side by side, each sees all that came before it, and nobody wants weights."""
        is_plain = layout.is_uniform and layout.prefix_BT is None and not layout.capture.weights
        return is_plain and not self.weighs and self.sees_all(self.store.used)

    def _is_plain(self, layout: Layout) -> bool:
        """Whether the layout's tokens are all there is, and each sees what came before it: no mask says more."""
        is_first = layout.is_uniform and layout.starts is not None and layout.starts[0] == 0
        return is_first and layout.prefix_BT is None and self.sees_all(self.store.used)

    def _attend_to_all(self, query_BHTD: Tensor, layout: Layout, query_layout: Layout) -> Attended:
        assert self.store.key_BKSD is not None and self.store.value_BKSD is not None
        used = self.store.used
        key_BKSD = self.store.key_BKSD[:, :, :used]

        def index_BS() -> Tensor:
            return self.store.index_BS(query_BHTD.device)

        if self.rotates_at_use:
            slots = self.shared.get(layout, f"slots {self.window}", lambda: self.slot_rotation(layout, index_BS()))
            key_BKSD = self.position.rotate(key_BKSD, slots)
        causal = self._is_plain(query_layout) and not self.weighs
        sees_all = query_layout.is_uniform and query_BHTD.shape[2] == 1 and self.sees_all(used)
        visible_B1TS = None
        if not (causal or sees_all):
            visible_B1TS = self.shared.get(
                query_layout, f"mask {self.window}", lambda: self.visible(query_layout, index_BS())
            )
        mask = visible_B1TS

        def weighed() -> Tensor:
            return self.with_bias(visible_B1TS, layout, query_layout, index_BS(), query_BHTD)

        if self.position.adds_bias:
            mask = self.shared.get(query_layout, f"bias {self.window} {self.first_head}", weighed)
        elif self.weighs:
            mask = weighed()
        query_BHTD = self.asked(query_BHTD)
        value_BKSD = self.store.value_BKSD[:, :, :used]
        return attend(query_BHTD, key_BKSD, value_BKSD, mask, causal, layout.capture.weights)

    def _attend_to_pieces(self, query_BHTD: Tensor, layout: Layout, query_layout: Layout) -> Attended:
        pieces = self._visible_pieces(layout, query_layout, query_BHTD)
        query_BHTD = self.asked(query_BHTD)
        if not layout.capture.weights:
            return Attended(attention_over(query_BHTD, pieces), None)
        keys, values, masks, _ = zip(*pieces, strict=True)
        return attend(query_BHTD, torch.cat(keys, 2), torch.cat(values, 2), torch.cat(masks, -1), False, True)

    def _visible_pieces(self, layout: Layout, query_layout: Layout, query_BHTD: Tensor) -> Iterator[Piece]:
        sees_all = query_layout.is_uniform and self.sees_all(self.store.used) and not layout.capture.weights
        is_causal = query_layout is layout and self._is_causal(layout)
        for held in self.store.pieces(query_BHTD.device):
            key_BKSD, mask, first_query = held.key_BKSD, None, None
            if self.rotates_at_use:
                key_BKSD = self.position.rotate(key_BKSD, self.slot_rotation(layout, held.index_BS()))
            if not (sees_all and query_layout.starts is not None and held.is_past(query_layout.starts)):
                first_query = held.first_query(query_layout.starts) if is_causal and query_layout.starts else None
                mask = self.visible(query_layout, held.index_BS()) if first_query is None else None
            if self.weighs:
                mask = self.with_bias(mask, layout, query_layout, held.index_BS(), query_BHTD)
            yield Piece(key_BKSD, held.value_BKSD, mask, first_query)

    def token_rotation(self, layout: Layout, tokens: Layout) -> Rotation:
        """That of tokens which come in a layout's texts."""
        lengths = self.text_lengths(layout) if self.position.depends_on_length else None
        return rotation_at(self.position, tokens.positions_BTP, lengths)

    def rotation(self, layout: Layout, positions: Tensor) -> Rotation:
        """That of some positions in the layout's texts."""
        return self.position.rotation(positions, self.text_lengths(layout) if self.position.depends_on_length else None)

    def asked(self, query_BHTD: Tensor) -> Tensor:
        """What is compared with keys."""
        return self.position.asked(query_BHTD) if isinstance(self.position, RelativeLayer) else query_BHTD

    def with_bias(
        self, mask: Tensor | None, text: Layout, asking: Layout, index_BS: Tensor, query_BHTD: Tensor
    ) -> Tensor:
        """The mask of slots for the tokens `asking` in a `text`, and what distance adds to their scores, in one."""
        if isinstance(self.position, RelativeLayer):
            slots_BS = self.slot_positions(text, index_BS)
            return additive(self.position.said(query_BHTD, asking.row_positions, slots_BS), mask, False)
        lengths = self.text_lengths(text) if self.position.depends_on_length else None
        slots_BS = self.slot_positions(text, index_BS)
        return additive(self.position.bias(asking.positions_BTP[..., 0], slots_BS, lengths), mask, False)

    def slot_rotation(self, layout: Layout, index_BS: Tensor) -> Rotation:
        """That of the keys in slots, as they turn in the layout's texts."""
        return self.rotation(layout, self.slot_positions(layout, index_BS))

    def slot_positions(self, layout: Layout, index_BS: Tensor) -> Tensor:
        """(B, S): the position of each slot; any number where a row has none."""
        return index_BS.clamp(min=0)

    def text_lengths(self, layout: Layout) -> Tensor:
        """(B, 1): how long a text each row's positions turn for. Nothing is left out, so it is the whole text."""
        return layout.text_lengths()

    def append(self, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> None:
        """Remembers the layout's tokens (mutates)."""
        self.store.append(key_BKTD, value_BKTD, layout)

    def sees_all(self, used: int) -> bool:
        """Whether the latest query sees every key in the first `used` slots of a uniform batch."""
        return True

    def visible(self, layout: Layout, index_BS: Tensor) -> Tensor:
        """(B, 1, T, S): which keys the layout's tokens see."""
        return visible(layout.index_BT, index_BS, prefix_BT=layout.prefix_BT)[:, None]

    def bytes(self) -> Bytes:
        return self.store.bytes()

    def truncate(self, lengths: Sequence[int]) -> None:
        self.store.truncate(lengths)

    def select(self, rows: Sequence[int], shared: PerForward) -> Self:
        return self._over(self.store.select(rows), shared)

    def join(self, other: Self, shared: PerForward) -> Self:
        return self._over(self.store.join(other.store), shared)

    def state(self) -> State:
        return {"store": self.store.state()}

    def restore(self, state: State, device: torch.device) -> None:
        self.store.restore(state["store"], device)

    def _over(self, store: TokenStore, shared: PerForward) -> Self:
        """A layer like this one over another store."""
        layer = copy(self)
        layer.store, layer.shared = store, shared
        return layer
