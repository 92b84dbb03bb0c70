"""What one layer of block memory attends to: a fixed number of slots per row; what each row has archived and chosen.

    slots of a row: [ sinks | chosen blocks, in the order of the text | local window ]

Knows where things stand; when they move is the layer's decision.

Letters: B rows, T tokens, H heads, K kv heads, D head width, A attended slots, S slots, N blocks,
L tokens of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from handscroll.kvcache.archive import Archive, ArchivedBlocks, nbytes
from handscroll.kvcache.state import State

if TYPE_CHECKING:
    from handscroll.kvcache.block_memory import Sizes

# Blocks that a row owns, and gives up, together, where it was loaded or joined with all of them at once.
OWNED = 64


@dataclass
class Row:
    """What one sequence has archived and chosen.

    `table_N` maps its blocks, in the order of the text, to their numbers in the store; `owned` keeps them there, each
    span beside the place of its first block in the table. `chosen_KN` are places in the table. `pending` are queries
    (H, 1, D) of tokens decoded since the last selection.
    """

    length: int = 0
    table_N: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    owned: list[tuple[int, ArchivedBlocks]] = field(default_factory=list)
    chosen_KN: Tensor | None = None
    claims_KN: Tensor | None = None
    selected_at: int = 0
    pending: list[Tensor] = field(default_factory=list)

    @property
    def num_chosen(self) -> int:
        return 0 if self.chosen_KN is None else self.chosen_KN.shape[1]

    def local_slot(self, sizes: Sizes) -> int:
        """The first slot of the local window."""
        return sizes.sinks + self.num_chosen * sizes.block

    def filled(self, sizes: Sizes) -> int:
        """Slots in use."""
        return self.length + (self.num_chosen - len(self.table_N)) * sizes.block

    def archive(self, blocks: ArchivedBlocks) -> None:
        """The next blocks of the text are in the store (mutates)."""
        self.owned.append((len(self.table_N), blocks))
        self.table_N = torch.cat((self.table_N, blocks.numbers_N))
        if self.claims_KN is not None:
            self.claims_KN = torch.nn.functional.pad(self.claims_KN, (0, len(blocks.numbers_N)))

    def best(self, blocks: int) -> Tensor:
        """(K, `blocks`): the places that some kv head claims most, in the order of the text; the same for every head.

        A head that looks a fact up and one that reads on from it must see the same blocks.
        """
        assert self.claims_KN is not None
        best_N = self.claims_KN.amax(dim=0).topk(blocks).indices.sort().values.cpu()
        return best_N.expand(len(self.claims_KN), -1)

    def forget_from(self, place: int) -> None:
        """Only the first `place` blocks stay (mutates)."""
        self.table_N = self.table_N[:place]
        self.owned = [(first, blocks) for first, blocks in self.owned if first < place]

    def fork(self) -> Row:
        """A copy that shares archived blocks; tensors are replaced, never written to."""
        return replace(self, owned=list(self.owned), pending=list(self.pending))

    def moved(self, table_N: Tensor, archive: Archive) -> Row:
        """The same row with its blocks in another archive, at the numbers of `table_N`, which it owns from now on."""
        firsts = range(0, len(table_N), OWNED)
        owned = [(first, archive.own(table_N[first : first + OWNED])) for first in firsts]
        return replace(self, table_N=table_N, owned=owned, pending=list(self.pending))

    def state(self) -> State:
        """All but the table, whose numbers are the archive's business."""
        names = ("length", "chosen_KN", "claims_KN", "selected_at", "pending")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def restored(cls, state: State, device: torch.device) -> Row:
        """A row without a table: see `moved`."""
        claims_KN = state["claims_KN"]
        claims_KN = None if claims_KN is None else claims_KN.to(device)
        return cls(**state | {"claims_KN": claims_KN, "pending": [query.to(device) for query in state["pending"]]})


@dataclass
class Buffers:
    """The attended slots of every row: keys as they came, keys rotated at their slot, values, attention received."""

    key_BKAD: Tensor
    rotated_BKAD: Tensor
    value_BKAD: Tensor
    received_BKA: Tensor

    @classmethod
    def empty(cls, like_BKTD: Tensor, slots: int) -> Buffers:
        batch, heads, _, width = like_BKTD.shape
        key, rotated, value = (like_BKTD.new_zeros(batch, heads, slots, width) for _ in range(3))
        return cls(key, rotated, value, like_BKTD.new_zeros(batch, heads, slots))

    @property
    def device(self) -> torch.device:
        return self.key_BKAD.device

    def write(self, row: int, first: int, key_KSD: Tensor, rotated_KSD: Tensor, value_KSD: Tensor) -> None:
        """Fills a row's slots from `first` on (mutates)."""
        slots = slice(first, first + key_KSD.shape[1])
        self.key_BKAD[row, :, slots] = key_KSD
        self.rotated_BKAD[row, :, slots] = rotated_KSD
        self.value_BKAD[row, :, slots] = value_KSD

    def write_one(self, slots: Sequence[int], key_BK1D: Tensor, rotated_BK1D: Tensor, value_BK1D: Tensor) -> None:
        """Fills one slot of every row (mutates)."""
        parts = ((self.key_BKAD, key_BK1D), (self.rotated_BKAD, rotated_BK1D), (self.value_BKAD, value_BK1D))
        if min(slots) == max(slots):
            for buffer_BKAD, part_BK1D in parts:
                buffer_BKAD[:, :, slots[0] : slots[0] + 1] = part_BK1D
            return
        slots_B, rows_B = torch.tensor(slots, device=self.device), torch.arange(len(slots), device=self.device)
        for buffer_BKAD, part_BK1D in parts:
            buffer_BKAD[rows_B, :, slots_B] = part_BK1D[:, :, 0]

    def observe(self, row: int, weights_HTS: Tensor) -> None:
        """Adds up the attention that each slot received, over queries and the heads of its group (mutates)."""
        received_KA = self.received_BKA[row]
        _, length, stored = weights_HTS.shape
        received_KA[:, :stored] += weights_HTS.reshape(len(received_KA), -1, length, stored).sum(dim=(1, 2))

    def blocks(self, row: int, slots: slice, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """A row's slots in blocks of `size`: keys and values (N, K, L, D), attention received (N, K, L)."""
        _, heads, _, width = self.key_BKAD.shape
        return (
            self.key_BKAD[row, :, slots].reshape(heads, -1, size, width).transpose(0, 1),
            self.value_BKAD[row, :, slots].reshape(heads, -1, size, width).transpose(0, 1),
            self.received_BKA[row, :, slots].reshape(heads, -1, size).transpose(0, 1),
        )

    def select(self, rows_B: Tensor) -> Buffers:
        return Buffers(*(buffer.index_select(0, rows_B) for buffer in vars(self).values()))

    def join(self, other: Buffers) -> Buffers:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Buffers(*(torch.cat(pair) for pair in pairs))

    def blank(self, rows: int) -> Buffers:
        """As many slots for other rows, in which nothing stands."""
        return Buffers(*(buffer.new_zeros(rows, *buffer.shape[1:]) for buffer in vars(self).values()))

    def nbytes(self) -> int:
        return nbytes(*vars(self).values())
