"""Mixtures: shares are kept from the first window on, and what is drawn depends on (seed, step, micro) alone."""

from collections import Counter

import numpy as np
import pytest

from handscroll.training import MixedSource, PackedSource, TokenRow, Window


def part(mark: int, rows: int, window: int = 8, **options: int) -> PackedSource:
    """Full windows, whose tokens all are 1000 * mark + the number of their row."""
    tokens = [TokenRow(np.full(window, 1000 * mark + number)) for number in range(rows)]
    return PackedSource(tokens, window, **{"windows_per_batch": 4, "seed": 3, "accumulation": 2, **options})


def mark(window: Window) -> int:
    return int(window[0].ids[0]) // 1000


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1, 1, 1), (5, 0.5, 3, 1.5), (0.003, 0.997), (2,)])
def test_shares_are_kept_at_every_moment(weights: tuple[float, ...]) -> None:
    source = MixedSource([part(number, 5) for number in range(len(weights))], weights, seed=7)
    drawn = [mark(window) for step in range(60) for micro in range(2) for window in source.windows(step, micro)]
    exact = np.array(weights) / sum(weights)
    for count in range(1, len(drawn) + 1):
        counts = np.bincount(drawn[:count], minlength=len(weights))
        assert np.abs(counts - count * exact).max() < len(weights)


def test_order_is_independent_of_history() -> None:
    def make(seed: int = 7) -> MixedSource:
        return MixedSource([part(0, 5), part(1, 11)], (0.3, 0.7), seed)

    places = [(step, micro) for step in range(20) for micro in range(2)]
    forward = {place: [int(w[0].ids[0]) for w in make().windows(*place)] for place in places}
    one = make()
    assert {place: [int(w[0].ids[0]) for w in one.windows(*place)] for place in reversed(places)} == forward
    assert one.identity() == make().identity() != make(8).identity()
    assert MixedSource([part(0, 5), part(1, 11)], (0.5, 0.5), 7).identity() != one.identity()
    assert [make(seed).drawn(0)[0] for seed in range(9)] != [make(7).drawn(0)[0]] * 9


def test_each_part_goes_through_whole_epochs_of_its_own() -> None:
    source = MixedSource([part(0, 4), part(1, 10)], (1, 1), seed=0)
    drawn = [int(w[0].ids[0]) for step in range(5) for micro in range(2) for w in source.windows(step, micro)]
    small = [each for each in drawn if each < 1000]
    assert len(small) == 20
    assert set(Counter(small).values()) == {5}
    assert all(len(set(small[start : start + 4])) == 4 for start in range(0, 20, 4))
    assert set(Counter(each for each in drawn if each >= 1000).values()) == {2}


def test_bad_mixtures() -> None:
    for weights in ((1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, 1e-9)):
        with pytest.raises(ValueError, match="give each part a weight above 0"):
            MixedSource([part(0, 5), part(1, 5)], weights, seed=0)
    with pytest.raises(ValueError, match="differ in window"):
        MixedSource([part(0, 5), part(1, 5, window=16)], (1, 1), seed=0)
    with pytest.raises(ValueError, match="micro batch 2 of a source that was made for accumulation=2"):
        MixedSource([part(0, 5)], (1,), seed=0).windows(0, 2)
