"""Token rows as a source wants them: lengths at hand, and any part of any row.

`TokenList` holds them in memory; `TokenFile` (`token_file.py`) reads them from a file, for corpora larger than memory;
`TokenView` shows parts of either.
Leaves to others which parts make a window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from handscroll.training.batch import TokenRow


class TokenRows(Protocol):
    """N rows. `lengths_N` counts their tokens, `learnt_N` those that are supervised, the first of a row apart."""

    lengths_N: NDArray[np.int64]
    learnt_N: NDArray[np.int64]
    is_masked: bool

    def part(self, row: int, start: int, stop: int) -> TokenRow:
        """Tokens start:stop of a row. Pure."""

    def digest(self) -> str:
        """Equal exactly for the same rows, however they are held."""


class TokenList:
    """Rows in memory. Raises ValueError for a mask that doesn't fit its row."""

    def __init__(self, rows: Iterable[TokenRow]) -> None:
        self._rows = [as_arrays(row) for row in rows]
        self.lengths_N = np.array([len(row.ids) for row in self._rows], dtype=np.int64)
        self.learnt_N = np.array([learnt(row) for row in self._rows], dtype=np.int64)
        self.is_masked = any(row.supervised is not None for row in self._rows)

    def part(self, row: int, start: int, stop: int) -> TokenRow:
        return TokenRow(*(None if each is None else each[start:stop] for each in self._rows[row]))  # type: ignore[arg-type]

    def digest(self) -> str:
        digest = RowsDigest()
        for row in self._rows:
            digest.add(row)
        return digest.finish()


class TokenView:
    """Parts of rows as rows of their own: row n is tokens start_N[n] to stop_N[n] of row row_N[n].

    Of masked rows only whole ones: what is learnt of a part would have to be counted.
    """

    def __init__(
        self, rows: TokenRows, row_N: NDArray[np.int64], start_N: NDArray[np.int64], stop_N: NDArray[np.int64]
    ) -> None:
        self._rows, self._row_N, self._start_N, self._stop_N = rows, row_N, start_N, stop_N
        self.lengths_N, self.is_masked = stop_N - start_N, rows.is_masked
        is_whole_N = self.lengths_N == rows.lengths_N[row_N]
        assert is_whole_N.all() or not self.is_masked, "a masked row is shown whole"
        self.learnt_N = np.where(is_whole_N, rows.learnt_N[row_N], np.maximum(0, self.lengths_N - 1))

    def part(self, row: int, start: int, stop: int) -> TokenRow:
        first = int(self._start_N[row])
        return self._rows.part(int(self._row_N[row]), first + start, first + stop)

    def digest(self) -> str:
        digest = hashlib.sha256(self._rows.digest().encode())
        for numbers_N in (self._row_N, self._start_N, self._stop_N):
            digest.update(numbers_N.astype("<i8").tobytes())
        return digest.hexdigest()


class RowsDigest:
    """What tells rows from others."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def add(self, row: TokenRow) -> None:
        """The next row, as arrays (mutates)."""
        self._sha.update(len(row.ids).to_bytes(8, "little"))
        self._sha.update(np.asarray(row.ids, dtype="<u4").tobytes())
        self._sha.update(b"-" if row.supervised is None else np.packbits(row.supervised).tobytes())
        if row.units is not None:
            self._sha.update(b"units" + row.units.tobytes())

    def finish(self) -> str:
        return self._sha.hexdigest()


def as_arrays(row: TokenRow) -> TokenRow:
    ids = np.asarray(row.ids, dtype=np.int64)
    supervised = None if row.supervised is None else np.asarray(row.supervised, dtype=bool)
    if supervised is not None and len(supervised) != len(ids):
        raise ValueError(f"a row of {len(ids)} ids has a mask of {len(supervised)}: they must be equally long")
    assert row.units is None or len(row.units) == len(ids), "a mark a token"
    return TokenRow(ids, supervised, row.units)


def learnt(row: TokenRow) -> int:
    """Supervised tokens of a row after its first, which is never predicted."""
    return max(0, len(row.ids) - 1) if row.supervised is None else int(np.count_nonzero(row.supervised[1:]))
