"""The packed source: pure in (seed, step, micro), every token once an epoch, no gap between epochs."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from handscroll.training import PackedSource, TokenRow, Window
from handscroll.training.sources import Identified

MakeRows = Callable[..., list[TokenRow]]
LENGTHS = (5, 9, 3, 17, 8, 2, 12, 30, 6, 7)


def flat(windows: list[Window]) -> list[list[tuple[list[int], list[bool] | None]]]:
    return [
        [(np.asarray(row.ids).tolist(), None if row.supervised is None else list(row.supervised)) for row in window]
        for window in windows
    ]


def numbered(*lengths: int) -> list[TokenRow]:
    """Every token of all rows is a number of its own."""
    ends = np.cumsum(lengths)
    return [TokenRow(np.arange(end - length, end)) for end, length in zip(ends, lengths, strict=True)]


def test_windows_depend_on_seed_step_and_micro_alone() -> None:
    one, other = (PackedSource(numbered(*LENGTHS), 16, 3, seed=5, accumulation=2) for _ in range(2))
    positions = [(step, micro) for step in range(9) for micro in range(2)]
    forward = {position: flat(one.windows(*position)) for position in positions}
    backward = {position: flat(other.windows(*position)) for position in reversed(positions)}
    assert forward == backward
    reseeded = PackedSource(numbered(*LENGTHS), 16, 3, seed=6, accumulation=2)
    assert flat(reseeded.windows(0, 0)) != forward[0, 0]


def test_every_epoch_serves_every_token_once_in_a_new_order() -> None:
    source = PackedSource(numbered(*LENGTHS), 16, 1, seed=5)
    served: list[list[int]] = []
    for step in range(60):
        ids = [int(i) for row in source.windows(step, 0)[0] for i in row.ids]
        assert len(ids) <= 16
        served.append(ids)
    starts = source._epoch_starts
    assert len(starts) > 5
    epochs = [[i for ids in served[a:b] for i in ids] for a, b in pairwise(starts[:5])]
    for epoch in epochs:
        counts = Counter(epoch)
        assert set(counts.values()) == {1}
        # A long document may be cut so that one token is left alone, which has nothing to learn.
        assert len(counts) >= sum(LENGTHS) - 2
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_accumulation_divides_the_same_stream() -> None:
    whole = PackedSource(numbered(*LENGTHS), 16, 8, seed=1)
    parts = PackedSource(numbered(*LENGTHS), 16, 2, seed=1, accumulation=4)
    for step in range(5):
        together = [window for micro in range(4) for window in parts.windows(step, micro)]
        assert flat(together) == flat(whole.windows(step, 0))


def test_parts_of_chats_without_an_answer_are_left_out() -> None:
    ids = np.arange(100)
    source = PackedSource([TokenRow(ids, (ids >= 40) & (ids < 44))], 16, 1, seed=0)
    for step in range(20):
        for row in source.windows(step, 0)[0]:
            assert row.supervised is not None
            assert np.any(row.supervised[1:])
            assert np.all((np.asarray(row.ids) >= 40) & (np.asarray(row.ids) < 44) == row.supervised)


def test_a_chat_without_any_answer_reaches_the_objective() -> None:
    source = PackedSource([TokenRow([1, 2, 3], [False] * 3)], 8, 1, seed=0)
    assert len(source.windows(0, 0)[0][0].ids) == 3


def test_identity_tells_data_and_options_apart() -> None:
    rows = numbered(*LENGTHS)
    identity = PackedSource(rows, 16, 3, seed=5).identity()
    assert isinstance(PackedSource(rows, 16, 3, seed=5), Identified)
    assert PackedSource(rows, 16, 3, seed=5).identity() == identity
    changed = [TokenRow(np.append(rows[0].ids[:-1], 999)), *rows[1:]]
    masked = [TokenRow(rows[0].ids, np.ones(len(rows[0].ids), dtype=bool)), *rows[1:]]
    others = [
        PackedSource(rows, 16, 3, seed=6),
        PackedSource(rows, 17, 3, seed=5),
        PackedSource(rows, 16, 4, seed=5),
        PackedSource(rows, 16, 3, seed=5, accumulation=2),
        PackedSource(changed, 16, 3, seed=5),
        PackedSource(masked, 16, 3, seed=5),
    ]
    assert len({identity, *(source.identity() for source in others)}) == 7


def test_bad_options() -> None:
    rows = numbered(4)
    for options, message in [
        ({"window": 1}, "window=1: it must be at least 2"),
        ({"windows_per_batch": 0}, "windows_per_batch=0"),
        ({"accumulation": -1}, "accumulation=-1"),
    ]:
        with pytest.raises(ValueError, match=message):
            PackedSource(rows, **{"window": 8, "windows_per_batch": 1, "seed": 0, **options})
    for empty in ([], [TokenRow([1])]):
        with pytest.raises(ValueError, match="nothing to train on"):
            PackedSource(empty, 8, 1, seed=0)
    with pytest.raises(ValueError, match="3 ids has a mask of 2"):
        PackedSource([TokenRow([1, 2, 3], [True, True])], 8, 1, seed=0)
    with pytest.raises(ValueError, match="micro batch 1 of a source that was made for accumulation=1"):
        PackedSource(rows, 8, 1, seed=0).windows(0, 1)


def test_room_is_left_beside_every_segment() -> None:
    source = PackedSource(numbered(*LENGTHS), 16, 1, seed=5, room=3)
    windows = source.epoch(0)
    assert all(sum(len(row.ids) + 3 for row in window) <= 16 for window in windows)
    assert max(len(row.ids) for window in windows for row in window) == 13
    assert source.identity() != PackedSource(numbered(*LENGTHS), 16, 1, seed=5).identity()
