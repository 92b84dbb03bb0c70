"""Packing: every token once, nothing over-full, pure in its arguments, and the arrays that come of it."""

import numpy as np
import pytest

from handscroll.text import Plan, Segment, assemble, gather, pack


def segments(plan: Plan) -> list[list[Segment]]:
    return [plan.segments(number) for number in range(len(plan))]


@pytest.mark.parametrize("seed", range(25))
def test_every_token_once_and_no_window_over_full(seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = int(rng.integers(1, 60))
    lengths = rng.integers(0, 3 * window + 1, size=int(rng.integers(1, 80)))
    lengths[0] += 1
    plan = pack(lengths, window, seed, 3)
    seen = [np.zeros(length, dtype=int) for length in lengths]
    for inside in segments(plan):
        assert inside
        assert 0 < sum(stop - start for _, start, stop in inside) <= window
        for row, start, stop in inside:
            assert start < stop
            seen[row][start:stop] += 1
    assert all((counts == 1).all() for counts in seen)
    assert plan.tokens == lengths.sum()
    assert plan.utilisation == lengths.sum() / (len(plan) * window)
    whole = lengths[(lengths > 0) & (lengths <= window)]
    uncut = sum(s.start == 0 and s.stop == lengths[s.row] <= window for inside in segments(plan) for s in inside)
    assert uncut == len(whole)


def test_pure_in_seed_and_epoch() -> None:
    lengths = list(np.random.default_rng(0).integers(1, 300, size=500))
    first = segments(pack(lengths, 128, 7, 0))
    assert segments(pack(lengths, 128, 7, 0)) == first
    assert segments(pack(lengths, 128, 7, 1)) != first
    assert segments(pack(lengths, 128, 8, 0)) != first


def test_windows_are_well_filled_and_rows_are_cut_at_other_places() -> None:
    lengths = np.minimum(np.random.default_rng(1).lognormal(5, 1, size=20_000).astype(int) + 1, 4000)
    assert pack(lengths, 512, 0, 0).utilisation > 0.99
    cuts = [{s.start for inside in segments(pack([10_000], 512, 0, epoch)) for s in inside} for epoch in range(3)]
    assert cuts[0] & cuts[1] & cuts[2] == {0}


def test_arrays() -> None:
    lengths = [3, 4, 5, 20, 0, 1]
    rows = [[100 * row + place for place in range(length)] for row, length in enumerate(lengths)]
    plan = pack(lengths, 8, 1, 1)
    numbers = list(range(len(plan)))
    tokens, document, positions, index = assemble(plan, numbers, rows, pad_id=-7)
    masks = gather(plan, numbers, [[row] * length for row, length in enumerate(lengths)], fill=-1)
    assert tokens.shape == document.shape == positions.shape == index.shape == (len(plan), 8)
    for number, inside in enumerate(segments(plan)):
        expected = [token for row, start, stop in inside for token in rows[row][start:stop]]
        real = len(expected)
        assert tokens[number].tolist() == expected + [-7] * (8 - real)
        assert index[number].tolist() == list(range(real)) + [-1] * (8 - real)
        assert (document[number] == -1).tolist() == (index[number] == -1).tolist()
        assert [document[number].tolist().count(place) for place in range(len(inside))] == [
            stop - start for _, start, stop in inside
        ]
        assert positions[number, :real].tolist() == [p for _, start, stop in inside for p in range(stop - start)]
        assert masks[number, :real].tolist() == [row for row, start, stop in inside for _ in range(stop - start)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], 0, 0, 0), "window is 0"),
        (([], 4, 0, 0), "nothing to pack"),
        (([0, 0], 4, 0, 0), "nothing to pack"),
        (([3, -1], 4, 0, 0), "nothing to pack"),
        (([3], 4, -1, 0), "seed is -1"),
    ],
)
def test_bad_arguments(arguments: tuple[list[int], int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(*arguments)
    with pytest.raises(IndexError):
        pack([3], 4, 0, 0).segments(1)
