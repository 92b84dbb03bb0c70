"""A layer of a model with pooled attention: recent tokens as they are, one pooled key and value per stretch of others.

Stretches are pooled when their last token has been read, from unturned keys, and wait until the window leaves them:
what a query sees depends on its place alone. Bytes are those of the window and of the text over the stride.

Letters: B rows, T tokens, S slots, N stretches of L tokens, H heads, K kv heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from handscroll.kernels.attention import additive
from handscroll.kvcache.layered import LayerCache, PerForward, attend
from handscroll.kvcache.state import State
from handscroll.kvcache.store import TokenStore
from handscroll.model.attention.pooled import SPAN, PooledOptions, Pooling
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position, rotation_of


class PooledLayer(LayerCache):
    def __init__(self, position: Position, rows: int, shared: PerForward, options: PooledOptions):
        self.position, self.shared, self.options = position, shared, options
        # Unturned keys, and pooled keys: turned already, unless a longer text turns them anew.
        self.recent, self.pooled = TokenStore(rows), TokenStore(rows)

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self.recent.lengths)

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        raise AssertionError("pooled attention hands over how it pools, too: attend_pooled")

    def attend_pooled(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, pooling: Pooling, layout: Layout
    ) -> Attended:
        """Remembers, pools what is whole, attends (mutates). Weights (B, H, T, N + S) where captured."""
        reach = self.options.window + self.options.stride
        self.remember(key_BKTD, value_BKTD, layout)
        self._pool(pooling, layout)
        rotation = self.shared.get(layout, "rotation", lambda: rotation_of(self.position, layout))
        query_BHTD = self.position.rotate(query_BHTD, rotation)
        length, size = query_BHTD.shape[2], max(SPAN, reach)
        is_plain = layout.is_uniform and len(set(self.recent.bases)) == 1
        if length <= size or not is_plain or layout.capture.weights:
            return self._attend(query_BHTD, layout, slice(None), slice(0, self.pooled.used), slice(0, self.recent.used))
        assert layout.starts is not None
        outs, before = [], layout.starts[0] - self.recent.bases[0]
        for first in range(0, length, size):
            last = min(first + size, length)
            near = slice(max(0, before + first - reach + 2), before + last)
            far = slice(0, (layout.starts[0] + last) // self.options.stride)
            outs.append(self._attend(query_BHTD[:, :, first:last], layout, slice(first, last), far, near).out_BHTD)
        return Attended(torch.cat(outs, dim=2), None)

    def remember(self, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> None:
        """Keeps the layout's tokens (mutates); drops what no query sees in full once it is a window's worth."""
        if self.recent.used + key_BKTD.shape[2] > 2 * (self.options.window + self.options.stride):
            self.recent.drop_before([self._needed_from(length) for length in self.recent.lengths])
        self.recent.append(key_BKTD, value_BKTD, layout)

    def _needed_from(self, length: int) -> int:
        """The first token that the next query of a row sees in full."""
        return max(0, length - self.options.window + 1) // self.options.stride * self.options.stride

    def _pool(self, pooling: Pooling, layout: Layout) -> None:
        """Pools each row's stretches that are whole by now (mutates)."""
        stride, have = self.options.stride, self.pooled.lengths
        new = [length // stride - held for length, held in zip(self.recent.lengths, have, strict=True)]
        if not max(new, default=0):
            return
        assert self.recent.key_BKSD is not None and self.recent.value_BKSD is not None
        device = layout.index_BT.device
        fresh = Layout.rows(new, have, device=device)
        firsts_B = torch.tensor([held * stride for held in have], device=device)
        bases_B = torch.tensor(self.recent.bases, device=device)
        slots_BX = (firsts_B - bases_B)[:, None] + torch.arange(max(new) * stride, device=device)
        slots_BX = slots_BX.clamp(0, self.recent.used - 1)
        key_BKND, value_BKND = (
            pool(torch.unflatten(x_BKSD.gather(2, _at(slots_BX, x_BKSD)), 2, (-1, stride)))
            for pool, x_BKSD in zip(pooling, (self.recent.key_BKSD, self.recent.value_BKSD), strict=True)
        )
        if not self.position.depends_on_length:
            key_BKND = self.position.rotate(key_BKND, self.position.rotation(self._ends(fresh.index_BT)))
        self.pooled.append(key_BKND, value_BKND, fresh)

    def _ends(self, number: Tensor) -> Tensor:
        """The place of a stretch's last token, where its key stands; any number for stretch -1."""
        return ((number + 1) * self.options.stride - 1).clamp(min=0)

    def _attend(self, query_BHTD: Tensor, layout: Layout, asking: slice, far: slice, near: slice) -> Attended:
        assert self.recent.key_BKSD is not None and self.recent.value_BKSD is not None
        device = query_BHTD.device
        number_BN, index_BS = self.pooled.index_BS(device)[:, far], self.recent.index_BS(device)[:, near]
        ends_BN, places_BS = self._ends(number_BN), index_BS.clamp(min=0)
        lengths = layout.text_lengths() if self.position.depends_on_length else None
        near_key = self.position.rotate(self.recent.key_BKSD[:, :, near], self.position.rotation(places_BS, lengths))
        keys, values = [near_key], [self.recent.value_BKSD[:, :, near]]
        if self.pooled.key_BKSD is not None and self.pooled.value_BKSD is not None:
            far_key = self.pooled.key_BKSD[:, :, far]
            if self.position.depends_on_length:
                far_key = self.position.rotate(far_key, self.position.rotation(ends_BN, lengths))
            keys, values = [far_key, *keys], [self.pooled.value_BKSD[:, :, far], *values]
        query_BT1 = layout.index_BT[:, asking, None]
        recent_BT1 = self.options.recent(query_BT1)
        sees_far = (number_BN[:, None] >= 0) & (ends_BN[:, None] < recent_BT1)
        sees_near = (index_BS[:, None] >= recent_BT1) & (index_BS[:, None] <= query_BT1)
        mask = (torch.cat((sees_far, sees_near), -1) | (query_BT1 < 0))[:, None]
        if self.position.adds_bias:
            positions_BT = layout.positions_BTP[:, asking, 0]
            mask = additive(self.position.bias(positions_BT, torch.cat((ends_BN, places_BS), 1), lengths), mask, False)
        return attend(query_BHTD, torch.cat(keys, 2), torch.cat(values, 2), mask, False, layout.capture.weights)

    def bytes(self) -> Bytes:
        return Bytes(self.recent.bytes().device + self.pooled.bytes().device, 0)

    def truncate(self, lengths: Sequence[int]) -> None:
        for row, (length, base) in enumerate(zip(lengths, self.recent.bases, strict=True)):
            if length and base > self._needed_from(length):
                raise ValueError(
                    f"row {row} can't be truncated to {length} tokens: of what lies before {base} only pooled keys are "
                    "left; read the text again"
                )
        self.recent.truncate(lengths)
        self.pooled.truncate([length // self.options.stride for length in lengths])

    def select(self, rows: Sequence[int], shared: PerForward) -> Self:
        return self._over(self.recent.select(rows), self.pooled.select(rows), shared)

    def join(self, other: Self, shared: PerForward) -> Self:
        return self._over(self.recent.join(other.recent), self.pooled.join(other.pooled), shared)

    def state(self) -> State:
        return {"recent": self.recent.state(), "pooled": self.pooled.state()}

    def restore(self, state: State, device: torch.device) -> None:
        self.recent.restore(state["recent"], device)
        self.pooled.restore(state["pooled"], device)

    def _over(self, recent: TokenStore, pooled: TokenStore, shared: PerForward) -> Self:
        layer = copy(self)
        layer.recent, layer.pooled, layer.shared = recent, pooled, shared
        return layer


def _at(slots_BX: Tensor, x_BKSD: Tensor) -> Tensor:
    return slots_BX[:, None, :, None].expand(-1, x_BKSD.shape[1], -1, x_BKSD.shape[3])
