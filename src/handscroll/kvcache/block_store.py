"""Where archived blocks live that all rows of a batch, and all caches forked from it, address by number.

Adds to an archive what selections read: representatives, and the lists of them. Which blocks are chosen is the business
of `block_selection.py`.

Letters: N blocks, K kv heads, L tokens of a block, R representatives, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from handscroll.kvcache.archive import Archive, ArchivedBlocks, nbytes
from handscroll.kvcache.block_index import BlockIndex
from handscroll.kvcache.blocks import Blocks, Plain
from handscroll.kvcache.places import Place, lasting
from handscroll.kvcache.state import State
from handscroll.model.memory import Bytes


class BlockStore(Archive):
    """Archived blocks, unrotated, each with its representatives.

    Blocks wait in the host's memory where nothing else is said; representatives, which selections read, are on the
    device. An `index`, where there is one, finds a few of them.
    """

    def __init__(self, blocks: Blocks | None = None, index: BlockIndex | None = None) -> None:
        super().__init__(blocks or Blocks(Plain(), Place("host")))
        self.index = index
        self.representative_KNRD: Tensor | None = None

    @property
    def representatives(self) -> Tensor:
        """(K, N, R, D) of all places up to the last one in use, free ones included."""
        assert self.representative_KNRD is not None, "nothing was archived yet"
        return self.representative_KNRD[:, : self.count]

    def append(self, key_NKLD: Tensor, value_NKLD: Tensor, representative_KNRD: Tensor) -> ArchivedBlocks:
        """Adds blocks (mutates)."""
        numbers_N = self.add(key_NKLD, value_NKLD)
        self._represent(numbers_N, representative_KNRD)
        return self.own(numbers_N)

    def gather(self, numbers_KN: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values (K, N * L, D) of each head's own choice of blocks, side by side, on `device`."""
        head_K1 = torch.arange(len(numbers_KN))[:, None]
        key_KNLD, value_KNLD = self.blocks.read((numbers_KN, head_K1), device)
        return key_KNLD.flatten(1, 2), value_KNLD.flatten(1, 2)

    def bytes(self) -> Bytes:
        held, stored = 0 if self.index is None else self.index.nbytes(), super().bytes()
        if self.representative_KNRD is not None:
            held += nbytes(self.representative_KNRD)
        return Bytes(held + stored.device, stored.host)

    def state(self, numbers_N: Tensor) -> State:
        held = None if self.representative_KNRD is None else _picked(self.representative_KNRD, numbers_N)
        # Lists go by number: where blocks of others lie between these, numbers change.
        index = self.index.state(len(numbers_N)) if self.index is not None and _is_all(numbers_N) else None
        return super().state(numbers_N) | {"representatives": held, "index": index}

    def restore(self, state: State, device: torch.device) -> None:
        super().restore(state, device)
        if state["representatives"] is not None:
            self.representative_KNRD = state["representatives"].to(device)
        if self.index is not None:
            # Memories that were saved before there were lists have none: the first selection learns them.
            self.index.restore(state.get("index"), device)

    def _copy(self, other: Archive, numbers_N: Tensor) -> Tensor:
        assert isinstance(other, BlockStore) and other.representative_KNRD is not None
        own_N = super()._copy(other, numbers_N)
        self._represent(own_N, _picked(other.representative_KNRD, numbers_N))
        return own_N

    def _represent(self, numbers_N: Tensor, representative_KNRD: Tensor) -> None:
        """Writes the representatives of these blocks, which are others from now on (mutates)."""
        self._reserve(self.count, representative_KNRD)
        assert self.representative_KNRD is not None
        self.representative_KNRD[:, numbers_N.to(representative_KNRD.device)] = representative_KNRD
        if self.index is not None:
            self.index.written(numbers_N.tolist())

    def _reserve(self, blocks: int, representative_KNRD: Tensor) -> None:
        held = 0 if self.representative_KNRD is None else self.representative_KNRD.shape[1]
        if blocks <= held:
            return
        heads, _, number, width = representative_KNRD.shape
        with lasting():
            grown = representative_KNRD.new_empty(heads, max(blocks, held + held // 4), number, width)
        if self.representative_KNRD is not None:
            grown[:, :held] = self.representative_KNRD
        self.representative_KNRD = grown


def _is_all(numbers_N: Tensor) -> bool:
    """Whether these numbers, ascending, are all from the first one on."""
    return not len(numbers_N) or int(numbers_N[-1]) == len(numbers_N) - 1


def _picked(representative_KNRD: Tensor, numbers_N: Tensor) -> Tensor:
    """Those of these blocks, ascending numbers; all from the first on without a copy."""
    if _is_all(numbers_N):
        return representative_KNRD[:, : len(numbers_N)]
    return representative_KNRD[:, numbers_N.to(representative_KNRD.device)]
