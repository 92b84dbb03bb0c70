"""Packs short rows into windows of equal length, without letting them see each other.

Knows lengths only: `pack` is a pure function of (lengths, window, seed, epoch), so that a training position is two
integers and a resumed run meets the same windows. `assemble` then fills arrays in the form that a `Layout` takes.
Leaves to others what the tokens are and which are trained on (`gather` packs any further value per token).

Best-fit decreasing: "Fewer Truncations Improve Language Modeling" (https://arxiv.org/abs/2404.10830).

B windows of a batch, T tokens of a window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Rows = Sequence[Sequence[int]] | Sequence[Integers] | Mapping[int, Sequence[int]]

# Pieces are packed in random groups of this size: large enough to fill windows, and small enough that with many rows
# an epoch puts other rows together than the one before.
GROUP = 16384


class Segment(NamedTuple):
    """Tokens start:stop of a row."""

    row: int
    start: int
    stop: int


class Packed(NamedTuple):
    """Arrays of one batch, int64 (B, T).

    document_BT: which segment of its window a token belongs to, -1 = padding; tokens see only their own document.
    positions_BT: restart at 0 with every document. index_BT: order in the window, -1 = padding.
    """

    tokens_BT: Integers
    document_BT: Integers
    positions_BT: Integers
    index_BT: Integers


@dataclass(frozen=True, eq=False)
class Plan:
    """Which segments go into which window: window w holds segments bounds[w]:bounds[w + 1]."""

    window: int
    rows: Integers
    starts: Integers
    stops: Integers
    bounds: Integers

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def segments(self, number: int) -> list[Segment]:
        """The segments of one window, in order."""
        if not 0 <= number < len(self):
            raise IndexError(f"window {number} of a plan with {len(self)}")
        part = slice(self.bounds[number], self.bounds[number + 1])
        columns = (self.rows[part].tolist(), self.starts[part].tolist(), self.stops[part].tolist())
        return [Segment(*values) for values in zip(*columns, strict=True)]

    @property
    def tokens(self) -> int:
        """Real tokens in all windows."""
        return int((self.stops - self.starts).sum())

    @property
    def utilisation(self) -> float:
        """The share of all places that hold a real token."""
        return self.tokens / (len(self) * self.window)


def pack(lengths: Sequence[int] | Integers, window: int, seed: int, epoch: int, room: int = 0) -> Plan:
    """Put every token of every row into exactly one window, in few windows and in random order.

    Rows longer than the window are cut, at other places in every epoch. Rows of length 0 are left out.
    `room` tokens are kept free beside each segment.
    """
    if window < 1 + room:
        raise ValueError(f"window is {window} tokens; it must be at least {1 + room}")
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed is {seed} and epoch is {epoch}; neither may be negative")
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.ndim != 1 or not sizes.sum() or sizes.min() < 0:
        raise ValueError("there is nothing to pack: lengths must be a list of numbers >= 0, not all of them 0")
    rng = np.random.default_rng([seed, epoch])
    rows, starts, stops = _cut(sizes, window - room, rng)
    windows = _best_fit(stops - starts + room, window, rng)
    count = int(windows.max()) + 1
    windows = rng.permutation(count)[windows]
    order = np.lexsort((rng.random(len(rows)), windows))
    bounds = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(windows, minlength=count), out=bounds[1:])
    return Plan(window, rows[order], starts[order], stops[order], bounds)


def assemble(plan: Plan, numbers: Sequence[int], rows: Rows, pad_id: int) -> Packed:
    """The windows `numbers` of a plan as arrays; rows[i] gives the tokens of row i."""
    shape = (len(numbers), plan.window)
    document_BT = np.full(shape, -1, dtype=np.int64)
    positions_BT = np.zeros(shape, dtype=np.int64)
    index_BT = np.full(shape, -1, dtype=np.int64)
    for batch_row, number in enumerate(numbers):
        filled = 0
        for document, segment in enumerate(plan.segments(number)):
            length = segment.stop - segment.start
            document_BT[batch_row, filled : filled + length] = document
            positions_BT[batch_row, filled : filled + length] = np.arange(length)
            filled += length
        index_BT[batch_row, :filled] = np.arange(filled)
    return Packed(gather(plan, numbers, rows, pad_id), document_BT, positions_BT, index_BT)


def gather(plan: Plan, numbers: Sequence[int], rows: Rows, fill: int) -> Integers:
    """One value per token, (B, T), packed in the same way, such as a loss mask; `fill` stands at padding."""
    values_BT = np.full((len(numbers), plan.window), fill, dtype=np.int64)
    for batch_row, number in enumerate(numbers):
        filled = 0
        for row, start, stop in plan.segments(number):
            values_BT[batch_row, filled : filled + stop - start] = rows[row][start:stop]
            filled += stop - start
    return values_BT


def _cut(sizes: Integers, window: int, rng: np.random.Generator) -> tuple[Integers, Integers, Integers]:
    """Pieces no longer than the window, as rows, starts and stops."""
    # The first piece of a long row has a random length, so that the cuts move from epoch to epoch.
    first = np.where(sizes > window, rng.integers(1, window + 1, size=len(sizes)), sizes)
    pieces = np.where(sizes > 0, 1 + -(-(sizes - first) // window), 0)
    rows = np.repeat(np.arange(len(sizes)), pieces)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.where(number == 0, 0, first[rows] + (number - 1) * window)
    stops = np.minimum(first[rows] + number * window, sizes[rows])
    return rows, starts, stops


def _best_fit(sizes: Integers, window: int, rng: np.random.Generator) -> Integers:
    """The window of every piece: in random groups, longest first, each into the fullest window with room."""
    windows = np.empty(len(sizes), dtype=np.int64)
    order = rng.permutation(len(sizes))
    count = 0
    for begin in range(0, len(order), GROUP):
        group = order[begin : begin + GROUP]
        group = group[np.argsort(-sizes[group], kind="stable")]
        open_windows: list[list[int]] = [[] for _ in range(window + 1)]  # by the room that is left
        with_room = 0  # bit r: some open window has room r; its lowest set bit from `size` up is the best fit
        placed: list[int] = []
        for size in sizes[group].tolist():
            fitting = with_room >> size
            if fitting:
                room = size + (fitting & -fitting).bit_length() - 1
                chosen = open_windows[room].pop()
                if not open_windows[room]:
                    with_room ^= 1 << room
            else:
                room, chosen, count = window, count, count + 1
            left = room - size
            if left:
                open_windows[left].append(chosen)
                with_room |= 1 << left
            placed.append(chosen)
        windows[group] = placed
    return windows
