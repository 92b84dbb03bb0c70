"""Sources: where a step's windows come from, as a pure function of (the source's seed, step, micro batch).

Nothing is consumed, so the position in training is two integers and a resumed run sees what an uninterrupted one would
have seen. `PackedSource` serves a fixed set of documents epoch after epoch; a generated curriculum is another source.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from handscroll.text.packing import Segment, pack
from handscroll.training.batch import TokenRow, Window


class Source(Protocol):
    def windows(self, step: int, micro: int) -> Sequence[Window]:
        """The windows of micro batch `micro` (0-based) of step `step` (0-based). Pure: the same for the same two."""


@runtime_checkable
class Identified(Protocol):
    """A source that can say what it serves, so that a run is never resumed on other data."""

    def identity(self) -> str:
        """A short text that is equal exactly for sources that serve the same windows."""


class PackedSource:
    """Documents packed into windows, in a new order every epoch, without a gap between epochs.

    Order, cuts and packing of an epoch are a pure function of (seed, epoch, lengths); documents longer than `window`
    are cut, at other places in every epoch. Segments that have nothing to learn are left out: a single token, or a part
    of a chat that holds none of its answers. `accumulation` is how many micro batches a step has; each gets
    `windows_per_batch` windows.
    """

    def __init__(self, rows: Sequence[TokenRow], window: int, windows_per_batch: int, seed: int, accumulation: int = 1):
        sizes = (("window", window, 2), ("windows_per_batch", windows_per_batch, 1), ("accumulation", accumulation, 1))
        for name, value, least in sizes:
            if value < least:
                raise ValueError(f"{name}={value}: it must be at least {least}")
        self.rows = [_as_arrays(row) for row in rows]
        self.window = window
        self.windows_per_batch = windows_per_batch
        self.seed = seed
        self.accumulation = accumulation
        self._lengths = np.array([len(row.ids) for row in self.rows], dtype=np.int64)
        if not len(rows) or self._lengths.max() < 2:
            raise ValueError(f"none of {len(rows)} documents has 2 tokens or more: there is nothing to train on")
        # A row without any answer is kept whole, so that the objective can refuse it instead of never seeing it.
        self._masked = [row.supervised is not None and bool(row.supervised[1:].any()) for row in self.rows]
        # The number of each epoch's first window, as far as is known: only packing says how many an epoch has.
        self._epoch_starts = [0]
        self._epoch: tuple[int, list[list[Segment]]] = (-1, [])

    def windows(self, step: int, micro: int) -> list[Window]:
        if not 0 <= micro < self.accumulation:
            raise ValueError(f"micro batch {micro} of a source that was made for accumulation={self.accumulation}")
        first = (step * self.accumulation + micro) * self.windows_per_batch
        return [self._window(number) for number in range(first, first + self.windows_per_batch)]

    def identity(self) -> str:
        options = [self.window, self.windows_per_batch, self.seed, self.accumulation]
        digest = hashlib.sha256(json.dumps(options).encode())
        digest.update(self._lengths.tobytes())
        for row in self.rows:
            digest.update(row.ids.tobytes())
            digest.update(b"-" if row.supervised is None else row.supervised.tobytes())
        return digest.hexdigest()[:16]

    def _window(self, number: int) -> Window:
        while number >= self._epoch_starts[-1]:
            self._epoch_starts.append(self._epoch_starts[-1] + len(self._plan(len(self._epoch_starts) - 1)))
        epoch = bisect.bisect_right(self._epoch_starts, number) - 1
        segments = self._plan(epoch)[number - self._epoch_starts[epoch]]
        return [self._slice(segment) for segment in segments]

    def _plan(self, epoch: int) -> list[list[Segment]]:
        """The windows of an epoch. The last epoch is kept, for it is asked for again and again."""
        if self._epoch[0] != epoch:
            plan = pack(self._lengths, self.window, self.seed, epoch)
            windows = [[s for s in plan.segments(w) if self._teaches(s)] for w in range(len(plan))]
            self._epoch = (epoch, [segments for segments in windows if segments])
        return self._epoch[1]

    def _teaches(self, segment: Segment) -> bool:
        row, start, stop = segment
        if not self._masked[row]:
            return stop - start > 1
        supervised = self.rows[row].supervised
        return supervised is not None and bool(supervised[start + 1 : stop].any())

    def _slice(self, segment: Segment) -> TokenRow:
        (ids, supervised), part = self.rows[segment.row], slice(segment.start, segment.stop)
        return TokenRow(ids[part], None if supervised is None else supervised[part])


class _Arrays(NamedTuple):
    ids: NDArray[np.int64]
    supervised: NDArray[np.bool_] | None


def _as_arrays(row: TokenRow) -> _Arrays:
    ids = np.asarray(row.ids, dtype=np.int64)
    supervised = None if row.supervised is None else np.asarray(row.supervised, dtype=bool)
    if supervised is not None and len(supervised) != len(ids):
        raise ValueError(f"a row of {len(ids)} ids has a mask of {len(supervised)}: they must be equally long")
    return _Arrays(ids, supervised)
