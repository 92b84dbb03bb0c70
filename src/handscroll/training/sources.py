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

from handscroll.text.packing import Plan, pack
from handscroll.training.batch import TokenRow, Window
from handscroll.training.token_rows import TokenList, TokenRows

_Integers = NDArray[np.int64]


class Source(Protocol):
    def windows(self, step: int, micro: int) -> Sequence[Window]:
        """The windows of micro batch `micro` (0-based) of step `step` (0-based). Pure: the same for the same two."""


@runtime_checkable
class Identified(Protocol):
    """A source that can say what it serves, so that a run is never resumed on other data."""

    def identity(self) -> str:
        """A short text that is equal exactly for sources that serve the same windows."""


class Batched(Protocol):
    """A source that serves a stream of windows in micro batches of one size."""

    windows_per_batch: int
    accumulation: int


class PackedSource:
    """Documents packed into windows, in a new order every epoch, without a gap between epochs.

    Order, cuts and packing of an epoch are a pure function of (seed, epoch, lengths); documents longer than `window`
    are cut, at other places in every epoch. Segments that have nothing to learn are left out: a single token, or a part
    of a chat that holds none of its answers. `accumulation` is how many micro batches a step has; each gets
    `windows_per_batch` windows. `room` is left for so many tokens that the objective adds to each segment.
    """

    def __init__(
        self,
        rows: Sequence[TokenRow] | TokenRows,
        window: int,
        windows_per_batch: int,
        seed: int,
        accumulation: int = 1,
        room: int = 0,
    ):
        batch = ("windows_per_batch", windows_per_batch, 1)
        sizes = (("window", window, 2 + room), batch, ("accumulation", accumulation, 1))
        for name, value, least in sizes:
            if value < least:
                raise ValueError(f"{name}={value}: it must be at least {least}")
        self.rows: TokenRows = TokenList(rows) if isinstance(rows, Sequence) else rows
        self.window = window
        self.windows_per_batch = windows_per_batch
        self.seed = seed
        self.accumulation = accumulation
        self.room = room
        lengths_N = self.rows.lengths_N
        if not len(lengths_N) or lengths_N.max() < 2:
            raise ValueError(f"none of {len(lengths_N)} documents has 2 tokens or more: there is nothing to train on")
        # The number of each epoch's first window, as far as is known: only packing says how many an epoch has.
        self._epoch_starts = [0]
        self._epoch: tuple[int, _Plan] | None = None

    def windows(self, step: int, micro: int) -> list[Window]:
        return [self.numbered(number) for number in numbers(self, step, micro)]

    def numbered(self, number: int) -> Window:
        """The window `number` (0-based) of the endless stream of epochs. Pure."""
        while number >= self._epoch_starts[-1]:
            self._epoch_starts.append(self._epoch_starts[-1] + len(self._plan(len(self._epoch_starts) - 1)))
        epoch = bisect.bisect_right(self._epoch_starts, number) - 1
        return self._window(self._plan(epoch), number - self._epoch_starts[epoch])

    def epoch(self, number: int) -> list[Window]:
        """All windows of an epoch, in their order."""
        plan = self._plan(number)
        return [self._window(plan, place) for place in range(len(plan))]

    def packed(self, epoch: int) -> int:
        """The windows that an epoch is packed into, those included of which nothing is learnt."""
        return len(self._packing(epoch))

    def identity(self) -> str:
        options = [self.window, self.windows_per_batch, self.seed, self.accumulation, self.rows.digest()]
        if self.room:
            options.append(self.room)
        return hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]

    def _packing(self, epoch: int) -> Plan:
        return pack(self.rows.lengths_N, self.window, self.seed, epoch, self.room)

    def _window(self, plan: _Plan, place: int) -> Window:
        segments = range(plan.bounds[place], plan.bounds[place + 1])
        return [self.rows.part(int(plan.rows[s]), int(plan.starts[s]), int(plan.stops[s])) for s in segments]

    def _plan(self, epoch: int) -> _Plan:
        """The windows of an epoch. The last epoch is kept, for it is asked for again and again."""
        if self._epoch is None or self._epoch[0] != epoch:
            plan = self._packing(epoch)
            kept = self._teaches(plan.rows, plan.starts, plan.stops)
            before = np.concatenate([[0], np.cumsum(kept)])
            # Windows of which nothing is left have the bound of the window before.
            bounds = np.unique(before[plan.bounds])
            self._epoch = (epoch, _Plan(plan.rows[kept], plan.starts[kept], plan.stops[kept], bounds))
        return self._epoch[1]

    def _teaches(self, rows: _Integers, starts: _Integers, stops: _Integers) -> NDArray[np.bool_]:
        """Which segments have something to learn."""
        learnt, sizes = self.rows.learnt_N[rows], stops - starts
        # A row without any answer is kept whole, so that the objective can refuse it instead of never seeing it.
        kept = np.asarray(sizes > 1)
        if self.rows.is_masked:
            for s in np.flatnonzero((sizes < self.rows.lengths_N[rows]) & (learnt > 0) & kept):
                supervised = self.rows.part(int(rows[s]), int(starts[s]), int(stops[s])).supervised
                kept[s] = supervised is not None and bool(np.any(supervised[1:]))
        return kept


class _Plan(NamedTuple):
    """The segments of an epoch that have something to learn: window w holds those from bounds[w] to bounds[w + 1]."""

    rows: _Integers
    starts: _Integers
    stops: _Integers
    bounds: _Integers

    def __len__(self) -> int:
        return len(self.bounds) - 1


def numbers(source: Batched, step: int, micro: int) -> range:
    """The numbers of a micro batch's windows in a source's stream. ValueError for a micro batch that it hasn't got."""
    if not 0 <= micro < source.accumulation:
        raise ValueError(f"micro batch {micro} of a source that was made for accumulation={source.accumulation}")
    first = (step * source.accumulation + micro) * source.windows_per_batch
    return range(first, first + source.windows_per_batch)
