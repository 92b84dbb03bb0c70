"""What one layer of block memory attends to: a fixed number of slots per row; what each row has archived and chosen.

    slots of a row: [ sinks | chosen blocks, in the order of the text | local window ]

Knows where things stand; when they move is the layer's decision.

Letters: B rows, T tokens, H heads, K kv heads, D head width, A attended slots, S slots, N blocks,
L tokens of a block.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from handscroll.kvcache.archive import Archive, ArchivedBlocks, nbytes
from handscroll.kvcache.block_cuts import block_ends, split
from handscroll.kvcache.block_statistics import Lookups
from handscroll.kvcache.places import lasting
from handscroll.kvcache.state import State
from handscroll.model.position import Rotation

if TYPE_CHECKING:
    from handscroll.kvcache.block_memory import Sizes

# Blocks that a row owns, and gives up, together, where it was loaded or joined with all of them at once.
OWNED = 64


@dataclass
class Row:
    """What one sequence has archived and chosen.

    `table_N` maps its blocks, in the order of the text, to their numbers in the store; `owned` keeps them there, each
    span beside the place of its first block in the table. `edges_N` (one more) are the indices at which the blocks
    begin, and where the last one ends. `chosen_KN` are places in the table. `archived` and `retrieved` count the tokens
    of all blocks and of the chosen ones. `breaks` are the indices of tokens that end a sentence, where blocks do so.
    `pending` are queries (H, 1, D) of tokens decoded since the last selection.
    """

    edges_N: Tensor
    length: int = 0
    table_N: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    owned: list[tuple[int, ArchivedBlocks]] = field(default_factory=list)
    archived: int = 0
    retrieved: int = 0
    breaks: array[int] = field(default_factory=lambda: array("q"))
    chosen_KN: Tensor | None = None
    claims_KN: Tensor | None = None
    selected_at: int = 0
    pending: list[Tensor] = field(default_factory=list)
    lookups: Lookups = field(default_factory=Lookups)

    @classmethod
    def empty(cls, sizes: Sizes) -> Row:
        return cls(torch.tensor([sizes.sinks]))

    @property
    def filled(self) -> int:
        """Slots in use."""
        return self.length - self.archived + self.retrieved

    def local_slot(self, sizes: Sizes) -> int:
        """The first slot of the local window."""
        return sizes.sinks + self.retrieved

    def leaving(self, sizes: Sizes) -> list[int]:
        """Where the blocks end that leave the local window before the next token is read."""
        return block_ends(sizes.sinks + self.archived, sizes.local_from(self.length), sizes, self.breaks)

    def lengths_of(self, places_N: Tensor) -> Tensor:
        """Tokens of the blocks at these places."""
        return self.edges_N[places_N + 1] - self.edges_N[places_N]

    def blocks_with(self, first: int, last: int, sizes: Sizes) -> list[int]:
        """The first token of each block that holds one of the tokens from `first` on and before `last`.

        Blocks that leave the local window before the next token are among them.
        """
        edges_N = torch.cat((self.edges_N, torch.tensor(self.leaving(sizes), dtype=torch.int64)))
        starts: list[int] = edges_N[:-1][(edges_N[:-1] < last) & (edges_N[1:] > first)].tolist()
        return starts

    def archive(self, blocks: ArchivedBlocks, ends: Sequence[int]) -> None:
        """The next blocks of the text, which end at these indices, are in the store (mutates)."""
        self.owned.append((len(self.table_N), blocks))
        self.table_N = torch.cat((self.table_N, blocks.numbers_N))
        self.edges_N = torch.cat((self.edges_N, torch.tensor(ends)))
        self.archived = ends[-1] - int(self.edges_N[0])

    def choose(self, chosen_KN: Tensor | None, sizes: Sizes) -> None:
        """These blocks are read from now on (mutates)."""
        self.chosen_KN = chosen_KN
        if chosen_KN is None:
            self.retrieved = 0
        elif sizes.by_sentence:
            self.retrieved = int(self.lengths_of(chosen_KN[0]).sum())
        else:
            self.retrieved = chosen_KN.shape[1] * sizes.block

    def best(self, sizes: Sizes, per_head: bool) -> Tensor:
        """(K, N): the places that each kv head claims most, as many as may be read, in the order of the text.

        Shared (not `per_head`) they are those that some head claims most: a head that looks a fact up and one that
        reads on from it must see the same blocks.
        """
        assert self.claims_KN is not None
        claims_KN = self.claims_KN if per_head else self.claims_KN.amax(dim=0, keepdim=True)
        best_KN = claims_KN.topk(min(sizes.most_blocks, len(self.table_N))).indices.cpu()
        if sizes.shortest < sizes.block:
            best_KN = best_KN[:, self.lengths_of(best_KN[0]).cumsum(0) <= sizes.retrieved]
        return best_KN.sort().values.expand(len(self.claims_KN), -1)

    def latest(self, sizes: Sizes) -> Tensor:
        """(N,): the places of the last blocks, as many as may be read."""
        lengths_N = self.edges_N.diff().flip(0)[: sizes.most_blocks]
        number = int((lengths_N.cumsum(0) <= sizes.retrieved).sum())
        return torch.arange(len(self.table_N) - number, len(self.table_N))

    def kept(self, length: int, sizes: Sizes) -> int:
        """How many blocks a text of `length` tokens has archived: those that begin before its local window."""
        return int((self.edges_N[:-1] < sizes.local_from(max(length - 1, 0))).sum())

    def go_back(self, length: int, kept: int) -> None:
        """The row ends at `length`, and only its first `kept` blocks stay (mutates)."""
        self.table_N, self.edges_N = self.table_N[:kept], self.edges_N[: kept + 1]
        self.owned = [(first, blocks) for first, blocks in self.owned if first < kept]
        self.length, self.archived = length, int(self.edges_N[-1] - self.edges_N[0])
        self.claims_KN, self.selected_at, self.pending = None, 0, []
        del self.breaks[bisect_left(self.breaks, length) :]
        self.lookups.forget_from(kept)

    def fork(self) -> Row:
        """A copy that shares archived blocks; tensors are replaced, never written to."""
        return replace(
            self,
            owned=list(self.owned),
            breaks=self.breaks[:],
            pending=list(self.pending),
            lookups=self.lookups.fork(),
        )

    def moved(self, table_N: Tensor, archive: Archive) -> Row:
        """The same row with its blocks in another archive, at the numbers of `table_N`, which it owns from now on."""
        firsts = range(0, len(table_N), OWNED)
        owned = [(first, archive.own(table_N[first : first + OWNED])) for first in firsts]
        return replace(self.fork(), table_N=table_N, owned=owned)

    def state(self) -> State:
        """All but the table, whose numbers are the archive's business."""
        state = {name: value for name, value in vars(self).items() if name not in ("table_N", "owned")}
        breaks_N = torch.tensor(self.breaks.tolist(), dtype=torch.int64)
        return state | {"breaks": breaks_N, "lookups": self.lookups.state()}

    @classmethod
    def restored(cls, state: State, device: torch.device) -> Row:
        """A row without a table: see `moved`."""
        claims_KN = state["claims_KN"]
        return cls(
            **state
            | {
                "claims_KN": None if claims_KN is None else claims_KN.to(device),
                "pending": [query_H1D.to(device) for query_H1D in state["pending"]],
                "breaks": array("q", state["breaks"].tolist()),
                "lookups": Lookups.restored(state["lookups"]),
            }
        )


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
        with lasting():
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

    def blocks(self, row: int, first: int, lengths: Sequence[int], size: int) -> tuple[Tensor, Tensor, Tensor]:
        """A row's slots from `first` on in blocks of these lengths, padded to `size`.

        Keys and values (N, K, L, D), attention received (N, K, L).
        """
        slots = slice(first, first + sum(lengths))
        return (
            split(self.key_BKAD[row, :, slots], lengths, size),
            split(self.value_BKAD[row, :, slots], lengths, size),
            split(self.received_BKA[row, :, slots, None], lengths, size)[..., 0],
        )

    def select(self, rows_B: Tensor) -> Buffers:
        with lasting():
            return Buffers(*(buffer.index_select(0, rows_B) for buffer in vars(self).values()))

    def join(self, other: Buffers) -> Buffers:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        with lasting():
            return Buffers(*(torch.cat(pair) for pair in pairs))

    def blank(self, rows: int) -> Buffers:
        """As many slots for other rows, in which nothing stands."""
        return Buffers(*(buffer.new_zeros(rows, *buffer.shape[1:]) for buffer in vars(self).values()))

    def nbytes(self) -> int:
        return nbytes(*vars(self).values())


def mean_over_distances(rotation: Rotation, sizes: Sizes) -> Rotation:
    """The mean of the rotations from each slot of a retrieved block to the last slot of a full window.

    A query turned by it and an unrotated key have, in one product, the mean score that the key would get in those
    slots: what RoPE turns many times within the window cancels out, what it hardly turns counts. `rotation` has a row
    for each slot, which is also one for each distance. A bias by distance is left out: it belongs to the slots, is the
    same whichever blocks are laid there, and drops out of a softmax.
    """
    nearest = sizes.window + sizes.tile
    distances = slice(nearest, nearest + sizes.retrieved)
    # Standing at 0, a key is not turned, but multiplied by the attention factor as everywhere else.
    key = rotation.cosine[:1]
    return Rotation(*(table[distances].mean(dim=0, keepdim=True) * key for table in rotation))
