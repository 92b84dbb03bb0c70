"""Where keys and values live: contiguous tensors that grow by doubling. Which tokens, where, is a policy's decision.

`TokenStore` holds the latest tokens of each row; `BlockStore` holds archived blocks that all rows of a batch, and all
caches forked from it, address by number.

Letters: B rows, T tokens, S slots, N blocks, K kv heads, L tokens of a block, R representatives, D head width.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from handscroll.kvcache.block_index import BlockIndex
from handscroll.model.layout import Layout


def nbytes(*tensors: Tensor) -> int:
    """Bytes that these tensors hold, spare capacity included."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


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
        return max(length - base for length, base in zip(self.lengths, self.bases, strict=True))

    def append(self, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> None:
        """Writes the layout's real tokens behind each row's (mutates)."""
        assert layout.starts is not None and layout.lengths is not None, "a cache needs rows, not packed windows"
        assert list(layout.starts) == self.lengths, f"rows start at {layout.starts}, the cache ends at {self.lengths}"
        self.lengths = [start + length for start, length in zip(layout.starts, layout.lengths, strict=True)]
        self._reserve(self.used, key_BKTD)
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
            chosen.key_BKSD = self.key_BKSD[:, :, : self.used].index_select(0, rows_B)
            chosen.value_BKSD = self.value_BKSD[:, :, : self.used].index_select(0, rows_B)
        return chosen

    def nbytes(self) -> int:
        return nbytes(*(buffer for buffer in (self.key_BKSD, self.value_BKSD) if buffer is not None))

    def _reserve(self, slots: int, like_BKTD: Tensor) -> None:
        held = 0 if self.key_BKSD is None else self.key_BKSD.shape[2]
        if slots <= held:
            return
        room = max(slots, 2 * held if self.limit is None else min(2 * held, self.limit))
        batch, heads, _, width = like_BKTD.shape
        for name in ("key_BKSD", "value_BKSD"):
            # Zeros, not empty: a masked slot still meets the softmax's zero weight, and 0 * NaN is NaN.
            grown = like_BKTD.new_zeros(batch, heads, room, width)
            if held:
                grown[:, :, :held] = getattr(self, name)
            setattr(self, name, grown)


class ArchivedBlocks:
    """Blocks of a store, which keeps them for as long as this object lives: whoever needs them holds it."""

    def __init__(self, numbers_N: Tensor):
        self.numbers_N = numbers_N


class BlockStore:
    """Archived blocks, unrotated, each with its representatives. A block's number is its place, and it never moves.

    Places of blocks that nobody owns any more are used again. On a GPU the blocks wait in host memory and their
    representatives, which selections read, on the device. An `index`, where there is one, finds a few of them.
    """

    def __init__(self, index: BlockIndex | None = None) -> None:
        self.index = index
        self.count = 0
        self.free: set[int] = set()
        self.key_NKLD: Tensor | None = None
        self.value_NKLD: Tensor | None = None
        self.representative_KNRD: Tensor | None = None

    @property
    def representatives(self) -> Tensor:
        """(K, N, R, D) of all places up to the last one in use, free ones included."""
        assert self.representative_KNRD is not None, "nothing was archived yet"
        return self.representative_KNRD[:, : self.count]

    def append(self, key_NKLD: Tensor, value_NKLD: Tensor, representative_KNRD: Tensor) -> ArchivedBlocks:
        """Adds blocks (mutates), in free places first."""
        again = sorted(self.free)[: len(key_NKLD)]
        last = self.count + len(key_NKLD) - len(again)
        numbers = again + list(range(self.count, last))
        self._reserve(last, key_NKLD, representative_KNRD)
        assert self.key_NKLD is not None and self.value_NKLD is not None and self.representative_KNRD is not None
        numbers_N = torch.tensor(numbers)
        self.key_NKLD[numbers_N] = key_NKLD.to(self.key_NKLD.device)
        self.value_NKLD[numbers_N] = value_NKLD.to(self.value_NKLD.device)
        self.representative_KNRD[:, numbers_N.to(representative_KNRD.device)] = representative_KNRD
        if self.index is not None:
            self.index.written(numbers)
        self.free.difference_update(again)
        self.count = last
        blocks = ArchivedBlocks(numbers_N)
        weakref.finalize(blocks, self._release, numbers).atexit = False
        return blocks

    def gather(self, numbers_KN: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values (K, N * L, D) of each head's own choice of blocks, side by side, on `device`."""
        assert self.key_NKLD is not None and self.value_NKLD is not None
        heads, _, width = len(numbers_KN), self.key_NKLD.shape[2], self.key_NKLD.shape[3]
        head_K1 = torch.arange(heads)[:, None]
        return (
            self.key_NKLD[numbers_KN, head_K1].view(heads, -1, width).to(device),
            self.value_NKLD[numbers_KN, head_K1].view(heads, -1, width).to(device),
        )

    def host_bytes(self) -> int:
        return nbytes(*(blocks for blocks in (self.key_NKLD, self.value_NKLD) if blocks is not None))

    def device_bytes(self) -> int:
        index = 0 if self.index is None else self.index.nbytes()
        return index + (0 if self.representative_KNRD is None else nbytes(self.representative_KNRD))

    def _release(self, numbers: Sequence[int]) -> None:
        """Nobody owns these blocks any more (mutates): their places are free, those at the end are given up."""
        self.free.update(numbers)
        while self.count - 1 in self.free:
            self.count -= 1
            self.free.remove(self.count)

    def _reserve(self, blocks: int, key_NKLD: Tensor, representative_KNRD: Tensor) -> None:
        held = 0 if self.key_NKLD is None else len(self.key_NKLD)
        if blocks <= held:
            return
        room = max(blocks, 2 * held)
        for name in ("key_NKLD", "value_NKLD"):
            grown = torch.empty(room, *key_NKLD.shape[1:], dtype=key_NKLD.dtype)
            if held:
                grown[:held] = getattr(self, name)
            setattr(self, name, grown)
        heads, _, number, width = representative_KNRD.shape
        grown = representative_KNRD.new_empty(heads, room, number, width)
        if held:
            assert self.representative_KNRD is not None
            grown[:, :held] = self.representative_KNRD
        self.representative_KNRD = grown
