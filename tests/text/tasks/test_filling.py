"""Filling a context and laying sentences among others, against the simplest way to do it."""

import random

import pytest

from handscroll.text.tasks.filling import fit, group_places, lay


@pytest.mark.parametrize("tokens", [40, 100, 1000, 123_456])
def test_fit_is_full_or_as_full_as_pieces_allow(tokens: int) -> None:
    # Pieces of unequal lengths, the later ones longer, and a hundred-odd tokens that are always there.
    def used(count: int) -> int:
        return 37 + sum(3 + number % 5 + number // 400 for number in range(count))

    measured: list[int] = []

    def measure(text: str) -> int:
        measured.append(len(text))
        return used(int(text))

    try:
        count = fit(str, tokens, measure, least=0)
    except ValueError:
        assert used(0) > tokens
        return
    assert used(count) <= tokens
    assert used(count) >= 0.95 * tokens or used(count + 1) > tokens
    assert len(measured) <= 12


def test_fit_with_coarse_pieces_and_an_end() -> None:
    assert fit(lambda count: "x" * (100 * count), 350, len, least=0) == 3
    assert fit(lambda count: "x" * (100 * count), 10_000, len, least=0, most=7) == 7
    with pytest.raises(ValueError, match="the shortest that holds all it must has 200"):
        fit(lambda count: "x" * (100 * count), 150, len, least=2)


def test_lay_in_the_order_of_places() -> None:
    hay = [letter * 9 for letter in "abcdefghij"]
    laid = lay(hay, ["THREE", "ONE", "TWO"], [0.75, 0.0, 0.5], " ", "> ")
    words = laid.text.removeprefix("> ").split(" ")
    assert [word for word in words if word.islower()] == hay
    assert words[0] == "ONE"
    assert [laid.text[start:].split(" ")[0] for start in laid.starts] == ["THREE", "ONE", "TWO"]
    assert words.index("TWO") == 1 + 5
    assert laid.starts[0] / len(laid.text) == pytest.approx(0.75, abs=0.05)


def test_groups_begin_evenly_and_go_on_behind() -> None:
    groups = group_places([3, 0, 2, 1], random.Random(1))
    assert [len(group) for group in groups] == [3, 0, 2, 1]
    assert [group[0] for group in groups if group] == [0.125, 0.625, 0.875]
    assert all(group == sorted(group) and group[-1] <= 1 for group in groups if group)
