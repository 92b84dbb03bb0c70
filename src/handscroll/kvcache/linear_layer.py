"""A layer of a model with linear attention: of all that was read it keeps two sums per kv head (arXiv 2006.16236).

Bytes and time per token don't grow with the text. What is in the sums can't be taken out again, and keys are not there
to be looked at.

Letters: B rows, T tokens, H heads, K kv heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from handscroll.kernels.linear_attention import LinearState, causal_linear_attention, empty_state
from handscroll.kvcache.archive import nbytes
from handscroll.kvcache.layered import LayerCache, PerForward
from handscroll.kvcache.state import State
from handscroll.model.attention.linear import features
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position, rotation_of


class LinearLayer(LayerCache):
    keeps_positions = True

    def __init__(self, position: Position, rows: int, shared: PerForward):
        self.position, self.shared = position, shared
        self._lengths = [0] * rows
        self.sums: LinearState | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self._lengths)

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        assert layout.starts is not None and layout.lengths is not None, "a cache needs rows, not packed windows"
        if layout.capture.weights:
            raise ValueError("linear attention keeps no keys to give weights for: let the model read without a cache")
        rotation = self.shared.get(layout, "rotation", lambda: rotation_of(self.position, layout))
        query = features(query_BHTD, self.position, rotation)
        key = features(key_BKTD, self.position, rotation, layout)
        sums = empty_state(key_BKTD) if self.sums is None else self.sums
        out_BHTD, self.sums = causal_linear_attention(query, key, value_BKTD, sums)
        self._lengths = [start + length for start, length in zip(layout.starts, layout.lengths, strict=True)]
        return Attended(out_BHTD, None)

    def bytes(self) -> Bytes:
        return Bytes(0 if self.sums is None else nbytes(*self.sums), 0)

    def truncate(self, lengths: Sequence[int]) -> None:
        for row, (length, held) in enumerate(zip(lengths, self._lengths, strict=True)):
            if 0 < length < held:
                raise ValueError(
                    f"row {row} can't be truncated to {length} tokens: linear attention has summed all {held} up; read "
                    "the text again"
                )
        if self.sums is not None:
            kept_B = torch.tensor([length > 0 for length in lengths], device=self.sums.sum_BKD.device).float()
            product_BKDD = self.sums.product_BKDD * kept_B[:, None, None, None]
            self.sums = LinearState(product_BKDD, self.sums.sum_BKD * kept_B[:, None, None])
        self._lengths = list(lengths)

    def select(self, rows: Sequence[int], shared: PerForward) -> Self:
        return self._of([self._lengths[row] for row in rows], self.sums and _picked(self.sums, rows), shared)

    def join(self, other: Self, shared: PerForward) -> Self:
        parts = [layer.sums for layer in (self, other) if layer.sums is not None]
        if len(parts) == 1:
            layers = (self, other)
            parts = [layer.sums or _zeros(parts[0], len(layer.lengths)) for layer in layers]
        sums = LinearState(*(torch.cat(pair) for pair in zip(*parts, strict=True))) if parts else None
        return self._of(self._lengths + other._lengths, sums, shared)

    def state(self) -> State:
        product, total = self.sums or (None, None)
        return {"lengths": self._lengths, "product": product, "sum": total}

    def restore(self, state: State, device: torch.device) -> None:
        self._lengths = list(state["lengths"])
        if state["product"] is not None:
            self.sums = LinearState(state["product"].to(device), state["sum"].to(device))

    def _of(self, lengths: list[int], sums: LinearState | None, shared: PerForward) -> Self:
        layer = type(self)(self.position, len(lengths), shared)
        layer._lengths, layer.sums = lengths, sums
        return layer


def _picked(sums: LinearState, rows: Sequence[int]) -> LinearState:
    rows_B = torch.tensor(list(rows), dtype=torch.long, device=sums.sum_BKD.device)
    return LinearState(*(x.index_select(0, rows_B) for x in sums))


def _zeros(like: LinearState, rows: int) -> LinearState:
    return LinearState(*(x.new_zeros(rows, *x.shape[1:]) for x in like))
