"""Recent tokens in full on the device, older ones in an archive that may keep them in few bits, or elsewhere.

What KIVI (arXiv 2402.02750, section 3.3) calls the residual: the latest tokens, which are attended to most, stay as
they are, and keys can be quantized per channel once a group of them is complete. A forward's own tokens move only after
it has been answered.

Letters: B rows, T tokens, S slots, N blocks, K kv heads, L tokens of a block, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from handscroll.kvcache.archive import Archive, nbytes, together
from handscroll.kvcache.blocks import GROUP
from handscroll.kvcache.state import State
from handscroll.kvcache.store import PIECE, Held, TokenStore
from handscroll.model.layout import Layout
from handscroll.model.memory import Bytes

# Blocks of each row that are read at a time.
READ = PIECE // GROUP


class TieredStore(TokenStore):
    """Slots of a row: [ sinks, on the device | archived blocks | at least `recent` tokens, on the device ].

    `bases` and `lengths` are those of a `TokenStore`: tokens next to the sinks may have been dropped.
    """

    def __init__(self, rows: int, sinks: int, archive: Archive, recent: int):
        super().__init__(rows, sinks)
        self.archive, self.recent = archive, recent
        self.hot = TokenStore(rows, sinks)
        # Each row's archived blocks, in the order of the text.
        self.archived = [archive.own(torch.empty(0, dtype=torch.int64)) for _ in range(rows)]

    @property
    def tables(self) -> list[Tensor]:
        """The numbers of each row's archived blocks."""
        return [blocks.numbers_N for blocks in self.archived]

    @property
    def is_whole(self) -> bool:
        return not any(map(len, self.tables))

    def append(self, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> None:
        self.hot.append(key_BKTD, value_BKTD, layout)
        self._look()

    def settle(self) -> None:
        """Archives all whole blocks that are older than the `recent` tokens (mutates)."""
        hot, moving = self.hot, []
        for row, (length, base) in enumerate(zip(hot.lengths, hot.bases, strict=True)):
            number = max(0, length - base - self.sinks - self.recent) // GROUP
            moving.append(number)
            if number:
                assert hot.key_BKSD is not None and hot.value_BKSD is not None
                slots = slice(self.sinks, self.sinks + number * GROUP)
                key_NKLD, value_NKLD = (
                    buffer_BKSD[row, :, slots].reshape(buffer_BKSD.shape[1], number, GROUP, -1).transpose(0, 1)
                    for buffer_BKSD in (hot.key_BKSD, hot.value_BKSD)
                )
                numbers_N = torch.cat((self.tables[row], self.archive.add(key_NKLD, value_NKLD)))
                self.archived[row] = self.archive.own(numbers_N)
        if any(moving):
            pairs = zip(hot.bases, moving, strict=True)
            hot.drop_before([self.sinks + base + number * GROUP for base, number in pairs])
            hot.trim()
            self._look()

    def pieces(self, device: torch.device) -> Iterator[Held]:
        recent = list(self.hot.pieces(device))
        if self.sinks and len(recent) > 1:
            yield recent.pop(0)
        for first in range(0, max(map(len, self.tables)), READ):
            tables = [table_N[first : first + READ] for table_N in self.tables]
            starts = [self.sinks + base + first * GROUP for base in self.bases]
            parts = [self._read(table_N, max(map(len, tables)), device) for table_N in tables]
            key_BKSD, value_BKSD = (torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True))
            yield Held(key_BKSD, value_BKSD, starts, [len(table_N) * GROUP for table_N in tables])
        yield from recent

    def _read(self, table_N: Tensor, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values (1, K, S, D) of these blocks; the first one stands in for those that are missing."""
        if len(table_N) < number:
            table_N = torch.cat((table_N, table_N.new_zeros(number - len(table_N))))
        first, last = int(table_N[0]), int(table_N[-1])
        is_run = last - first == number - 1 and bool((table_N.diff() == 1).all())
        key_NKLD, value_NKLD = self.archive.blocks.read(slice(first, last + 1) if is_run else (table_N,), device)
        return key_NKLD.transpose(0, 1).flatten(1, 2)[None], value_NKLD.transpose(0, 1).flatten(1, 2)[None]

    def drop_before(self, firsts: Sequence[int]) -> None:
        """Drops what a `TokenStore` would, but of the archive whole blocks only (mutates)."""
        for row, (first, base) in enumerate(zip(firsts, self.bases, strict=True)):
            number = max(0, first - self.sinks - base) // GROUP
            self._keep(row, slice(number, None))
        self.hot.drop_before([0 if len(table_N) else first for first, table_N in zip(firsts, self.tables, strict=True)])
        self._look()

    def truncate(self, lengths: Sequence[int]) -> None:
        """Blocks that are cut come back to the device, as they were archived (mutates)."""
        for row, length in enumerate(lengths):
            hot_start = self.sinks + self.hot.bases[row]
            if not len(self.tables[row]) or length >= hot_start:
                continue
            start = self.sinks + self.bases[row]
            kept, rest = divmod(max(0, length - start), GROUP)
            if rest:
                assert self.hot.key_BKSD is not None and self.hot.value_BKSD is not None
                parts = self._read(self.tables[row][kept : kept + 1], 1, self.hot.key_BKSD.device)
                self.hot.reserve(self.sinks + GROUP, self.hot.key_BKSD)
                for buffer_BKSD, part_1KSD in zip((self.hot.key_BKSD, self.hot.value_BKSD), parts, strict=True):
                    buffer_BKSD[row, :, self.sinks : self.sinks + rest] = part_1KSD[0, :, :rest]
            self._keep(row, slice(kept))
            self.hot.bases[row] = self.bases[row] + kept * GROUP
        self.hot.truncate(lengths)
        self._look()

    def select(self, rows: Sequence[int]) -> TieredStore:
        """A copy of these rows; archived blocks are shared."""
        chosen = TieredStore(len(rows), self.sinks, self.archive, self.recent)
        chosen.hot = self.hot.select(rows)
        chosen.archived = [self.archived[row] for row in rows]
        chosen._look()
        return chosen

    def join(self, other: TokenStore) -> TieredStore:
        """A copy of these rows and, behind them, of the other's, whose archived blocks are copied to this archive."""
        assert isinstance(other, TieredStore)
        joined = TieredStore(0, self.sinks, self.archive, self.recent)
        joined.hot = self.hot.join(other.hot)
        adopted = [self.archive.own(table_N) for table_N in self.archive.adopt(other.archive, other.tables)]
        joined.archived = self.archived + adopted
        joined._look()
        return joined

    def state(self) -> State:
        numbers_N, tables = together(self.tables)
        return {"hot": self.hot.state(), "archive": self.archive.state(numbers_N), "tables": tables}

    def restore(self, state: State, device: torch.device) -> None:
        self.hot.restore(state["hot"], device)
        self.archive.restore(state["archive"], device)
        self.archived = [self.archive.own(table_N) for table_N in state["tables"]]
        self._look()

    def bytes(self) -> Bytes:
        device, host = map(sum, zip(self.hot.bytes(), self.archive.bytes(), strict=True))
        return Bytes(device, host + nbytes(*self.tables))

    def trim(self, times: int = 2) -> None:
        """That of the tokens on the device (mutates)."""
        self.hot.trim(times)
        self._look()

    def _keep(self, row: int, kept: slice) -> None:
        """Of a row's archived blocks only these stay (mutates)."""
        numbers_N = self.tables[row][kept]
        if len(numbers_N) < len(self.tables[row]):
            self.archived[row] = self.archive.own(numbers_N.clone())

    def _look(self) -> None:
        """Lengths and bases follow from what is held (mutates)."""
        self.lengths = list(self.hot.lengths)
        pairs = zip(self.hot.bases, self.tables, strict=True)
        self.bases = [base - len(table_N) * GROUP for base, table_N in pairs]
        self.key_BKSD, self.value_BKSD = self.hot.key_BKSD, self.hot.value_BKSD
