"""Where keys and values live: contiguous tensors that grow by doubling. Which tokens, where, is a policy's decision.

`TokenStore` holds each row's first tokens and its latest; archived blocks are the business of `block_store.py`.

Letters: B rows, T tokens, S slots, K kv heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import sub
from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.kvcache.archive import nbytes
from handscroll.kvcache.places import lasting
from handscroll.kvcache.state import State
from handscroll.model.layout import Layout
from handscroll.model.memory import Bytes

# Slots of a row that are attended to at a time where they come in pieces: keys and values stay in a processor's cache.
PIECE = 2048


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Slots (K, S, D) side by side; one part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


class Held(NamedTuple):
    """Keys and values (B, K, S, D) of some slots. Row b's are tokens `firsts[b]`, `firsts[b]` + 1 ..., `counts[b]`."""

    key_BKSD: Tensor
    value_BKSD: Tensor
    firsts: Sequence[int]
    counts: Sequence[int]

    @property
    def is_full(self) -> bool:
        """Whether each row has a token in every slot."""
        return min(self.counts) == self.key_BKSD.shape[2]

    def first_query(self, starts: Sequence[int]) -> int | None:
        """Which of the tokens from `starts[row]` on stands in the first slot of each row, where it is one and the same.

        None also where a row has no token in some slot.
        """
        (found, *others) = {first - start for first, start in zip(self.firsts, starts, strict=True)}
        return found if self.is_full and not others and found >= 0 else None

    def is_past(self, starts: Sequence[int]) -> bool:
        """Whether each row has a token in every slot, none of them after index `starts[row]`."""
        return self.is_full and all(
            first + count - 1 <= start for first, count, start in zip(self.firsts, self.counts, starts, strict=True)
        )

    def index_BS(self) -> Tensor:
        """The index in each slot, -1 where a row has none."""
        device = self.key_BKSD.device
        slots_S = torch.arange(self.key_BKSD.shape[2], device=device)
        firsts_B1, counts_B1 = (torch.tensor(numbers, device=device)[:, None] for numbers in (self.firsts, self.counts))
        return (firsts_B1 + slots_S).masked_fill(slots_S >= counts_B1, -1)


class TokenStore:
    """Keys and values of each row's first `sinks` tokens, and of its latest.

    Of each row `bases[row]` tokens have been dropped, those next to its sinks: behind these, index i stands in slot
    i - bases[row]. `limit`: as many slots as a row ever needs.
    """

    def __init__(self, rows: int, sinks: int = 0, limit: int | None = None):
        self.sinks, self.limit = sinks, limit
        self.bases = [0] * rows
        self.lengths = [0] * rows
        self.key_BKSD: Tensor | None = None
        self.value_BKSD: Tensor | None = None

    @property
    def used(self) -> int:
        """Slots in use in the fullest row."""
        return max(map(sub, self.lengths, self.bases), default=0)

    def append(self, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> None:
        """Writes the layout's real tokens behind each row's (mutates)."""
        assert layout.starts is not None and layout.lengths is not None, "a cache needs rows, not packed windows"
        assert list(layout.starts) == self.lengths, f"rows start at {layout.starts}, the cache ends at {self.lengths}"
        self.lengths = [start + length for start, length in zip(layout.starts, layout.lengths, strict=True)]
        self.reserve(self.used, key_BKTD)
        assert self.key_BKSD is not None and self.value_BKSD is not None
        if layout.is_uniform and len(set(self.bases)) == 1:
            first = layout.starts[0] - self.bases[0]
            last = first + key_BKTD.shape[2]
            self.key_BKSD[:, :, first:last] = key_BKTD
            self.value_BKSD[:, :, first:last] = value_BKTD
            return
        rows_N, tokens_N = (layout.index_BT >= 0).nonzero(as_tuple=True)
        bases_B = torch.tensor(self.bases, device=key_BKTD.device)
        slots_N = layout.index_BT[rows_N, tokens_N] - bases_B[rows_N]
        self.key_BKSD[rows_N, :, slots_N] = key_BKTD[rows_N, :, tokens_N]
        self.value_BKSD[rows_N, :, slots_N] = value_BKTD[rows_N, :, tokens_N]

    def settle(self) -> None:
        """Whoever asked has been answered: what is kept may move to where it stays (mutates)."""

    @property
    def is_whole(self) -> bool:
        """Whether keys and values of all slots in use stand side by side; if not, they come in `pieces`."""
        return True

    def pieces(self, device: torch.device) -> Iterator[Held]:
        """All slots in use, in the order of the text, some at a time, on `device`."""
        assert self.key_BKSD is not None and self.value_BKSD is not None
        counts = [length - base for length, base in zip(self.lengths, self.bases, strict=True)]
        sinks = min(self.sinks, self.used)
        for first, last in pairwise(sorted({0, sinks, *range(sinks, self.used, PIECE), self.used})):
            firsts = [first + (base if first >= self.sinks else 0) for base in self.bases]
            held = [max(0, min(last, count) - first) for count in counts]
            yield Held(self.key_BKSD[:, :, first:last], self.value_BKSD[:, :, first:last], firsts, held)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forgets what each row holds past `lengths[row]` (mutates)."""
        self.lengths = list(lengths)
        # Where only sinks are left, nothing is missing behind them.
        self.bases = [base if length > self.sinks else 0 for length, base in zip(lengths, self.bases, strict=True)]

    def drop_before(self, firsts: Sequence[int]) -> None:
        """Drops each row's tokens from its sinks to index `firsts[row]` (mutates): what follows moves to the front."""
        if self.key_BKSD is None or self.value_BKSD is None:
            return
        for row, (first, base, length) in enumerate(zip(firsts, self.bases, self.lengths, strict=True)):
            dropped = first - self.sinks - base
            if dropped > 0:
                assert first <= length, "only what was read can be dropped"
                kept = length - first
                for buffer_BKSD in (self.key_BKSD, self.value_BKSD):
                    local_KSD = buffer_BKSD[row, :, self.sinks :]
                    local_KSD[:, :kept] = local_KSD[:, dropped : dropped + kept].clone()
                self.bases[row] += dropped

    def rows(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (K, S, D) of each row's slots, on the device."""
        assert self.key_BKSD is not None
        held = list(self.pieces(self.key_BKSD.device))
        return [
            (
                joined([part.key_BKSD[row, :, : part.counts[row]] for part in held]),
                joined([part.value_BKSD[row, :, : part.counts[row]] for part in held]),
            )
            for row in range(len(self.lengths))
        ]

    def index_BS(self, device: torch.device) -> Tensor:
        """The index in each slot in use, -1 where a row has none."""
        slots_S = torch.arange(self.used, device=device)
        bases_B = torch.tensor(self.bases, device=device)
        held_B = torch.tensor(self.lengths, device=device) - bases_B
        index_BS = torch.where(slots_S < self.sinks, slots_S, slots_S + bases_B[:, None])
        return index_BS.masked_fill(slots_S >= held_B[:, None], -1)

    def select(self, rows: Sequence[int]) -> TokenStore:
        """A copy of these rows."""
        chosen = TokenStore(len(rows), self.sinks, self.limit)
        chosen.bases = [self.bases[row] for row in rows]
        chosen.lengths = [self.lengths[row] for row in rows]
        if self.key_BKSD is not None and self.value_BKSD is not None and rows:
            rows_B = torch.tensor(rows, device=self.key_BKSD.device)
            with lasting():
                chosen.key_BKSD = self.key_BKSD[:, :, : self.used].index_select(0, rows_B)
                chosen.value_BKSD = self.value_BKSD[:, :, : self.used].index_select(0, rows_B)
        return chosen

    def join(self, other: TokenStore) -> TokenStore:
        """A copy of these rows and, behind them, of the other's."""
        rows = len(self.lengths)
        both = TokenStore(rows + len(other.lengths), self.sinks, self.limit)
        both.bases, both.lengths = self.bases + other.bases, self.lengths + other.lengths
        for store, span in ((self, slice(0, rows)), (other, slice(rows, None))):
            if store.key_BKSD is not None and store.value_BKSD is not None:
                _, heads, _, width = store.key_BKSD.shape
                both.reserve(both.used, store.key_BKSD.new_empty(len(both.lengths), heads, 0, width))
                assert both.key_BKSD is not None and both.value_BKSD is not None
                both.key_BKSD[span, :, : store.used] = store.key_BKSD[:, :, : store.used]
                both.value_BKSD[span, :, : store.used] = store.value_BKSD[:, :, : store.used]
        return both

    def state(self) -> State:
        """What is held, to be saved; not the room that is spare."""
        kept = (None if buffer is None else buffer[:, :, : self.used] for buffer in (self.key_BKSD, self.value_BKSD))
        return {"lengths": self.lengths, "bases": self.bases} | dict(zip(("key", "value"), kept, strict=True))

    def restore(self, state: State, device: torch.device) -> None:
        """Empty before, holds what was saved (mutates)."""
        self.lengths, self.bases = state["lengths"], state["bases"]
        if state["key"] is not None:
            self.key_BKSD, self.value_BKSD = state["key"].to(device), state["value"].to(device)

    def bytes(self) -> Bytes:
        return Bytes(nbytes(*(buffer for buffer in (self.key_BKSD, self.value_BKSD) if buffer is not None)), 0)

    def trim(self, times: int = 2) -> None:
        """Gives back room that is more than `times` what is in use (mutates)."""
        if self.key_BKSD is not None and self.value_BKSD is not None and self.key_BKSD.shape[2] > times * self.used:
            with lasting():
                self.key_BKSD, self.value_BKSD = (
                    buffer_BKSD[:, :, : self.used].clone() for buffer_BKSD in (self.key_BKSD, self.value_BKSD)
                )

    def reserve(self, slots: int, like_BKTD: Tensor) -> None:
        """Makes room for so many slots of a row (mutates)."""
        held = 0 if self.key_BKSD is None else self.key_BKSD.shape[2]
        if slots <= held:
            return
        room = max(slots, 2 * held if self.limit is None else min(2 * held, self.limit))
        batch, heads, _, width = like_BKTD.shape
        for name in ("key_BKSD", "value_BKSD"):
            with lasting():
                # Zeros, not empty: a masked slot still meets the softmax's zero weight, and 0 * NaN is NaN.
                grown = like_BKTD.new_zeros(batch, heads, room, width)
            if held:
                grown[:, :, :held] = getattr(self, name)
            setattr(self, name, grown)
