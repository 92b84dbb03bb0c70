"""Rows in a mapped file serve what rows in memory serve, and a file is whole or made anew."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from handscroll.training import PackedSource, TokenFile, TokenRow
from handscroll.training.token_file import IDS, UNITS
from handscroll.training.token_rows import TokenList

MakeRows = Callable[..., list[TokenRow]]
LENGTHS = (5, 9, 3, 17, 8, 2, 12, 30, 6, 7, 70)


def plain(source: PackedSource, steps: int) -> list[list[tuple[list[int], list[bool] | None]]]:
    return [
        [(list(row.ids), None if row.supervised is None else list(row.supervised)) for row in window]
        for step in range(steps)
        for window in source.windows(step, 0)
    ]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("vocab_size", [50, 70_000])
def test_a_file_serves_the_same_windows_as_memory(
    masked: bool, vocab_size: int, make_rows: MakeRows, tmp_path: Path
) -> None:
    rows = make_rows(*LENGTHS, masked=masked)
    if vocab_size > 1 << 16:
        rows = [TokenRow(np.asarray(row.ids) + 69_000, row.supervised) for row in rows]
    written = TokenFile.write(tmp_path / "tokens", iter(rows), vocab_size, "key")
    assert (tmp_path / "tokens" / IDS).stat().st_size == sum(LENGTHS) * (2 if vocab_size == 50 else 4)
    opened = TokenFile.opened(tmp_path / "tokens", "key")
    assert opened is not None
    held = TokenList(rows)
    assert written.digest() == opened.digest() == held.digest()
    assert np.array_equal(opened.learnt_N, held.learnt_N)
    ours, theirs = PackedSource(opened, 16, 2, seed=5), PackedSource(rows, 16, 2, seed=5)
    assert plain(ours, 20) == plain(theirs, 20)
    assert ours.identity() == theirs.identity()


def test_every_part_of_a_row_has_its_own_mask_and_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        TokenRow(rng.integers(0, 99, n), rng.random(n) < 0.5, rng.integers(0, 128, n).astype(np.uint8))
        for n in (13, 1, 8, 29)
    ]
    written, held = TokenFile.write(tmp_path / "tokens", rows, 99, "key"), TokenList(rows)
    without = [TokenRow(row.ids, row.supervised) for row in rows]
    assert written.digest() == held.digest() != TokenList(without).digest()
    with pytest.raises(ValueError, match="some rows have units"):
        TokenFile.write(tmp_path / "mixed", [rows[0], without[1]], 99, "key")
    (tmp_path / "tokens" / UNITS).write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"units.bin should have 51 bytes"):
        TokenFile.opened(tmp_path / "tokens", "key")
    written = TokenFile.write(tmp_path / "tokens", rows, 99, "key")
    for number, row in enumerate(rows):
        for start in range(len(row.ids)):
            for stop in range(start + 1, len(row.ids) + 1):
                part = written.part(number, start, stop)
                assert np.array_equal(part.ids, row.ids[start:stop])
                assert row.supervised is not None
                assert np.array_equal(np.asarray(part.supervised), row.supervised[start:stop])
                assert row.units is not None
                for units in (part.units, held.part(number, start, stop).units):
                    assert units is not None
                    assert np.array_equal(units, row.units[start:stop])


def test_other_rows_are_written_anew_and_a_failure_leaves_nothing(make_rows: MakeRows, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    TokenFile.write(folder, make_rows(9, 5), 50, "first", lambda: {"count": 3})
    assert TokenFile.opened(folder, "second") is None
    found = TokenFile.opened(folder, "first")
    assert found is not None
    assert found.about["notes"] == {"count": 3}

    def breaking() -> Iterator[TokenRow]:
        yield TokenRow([1, 2, 3])
        raise ValueError("row 2 is bad")

    with pytest.raises(ValueError, match="row 2 is bad"):
        TokenFile.write(folder, breaking(), 50, "second")
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(ValueError, match="there are no rows"):
        TokenFile.write(folder, [], 50, "second")
    with pytest.raises(ValueError, match="some rows have a mask"):
        TokenFile.write(folder, [TokenRow([1, 2]), TokenRow([1, 2], [False, True])], 50, "second")


def test_a_cut_file_is_named(make_rows: MakeRows, tmp_path: Path) -> None:
    TokenFile.write(tmp_path / "tokens", make_rows(9, 5), 50, "key")
    ids = tmp_path / "tokens" / IDS
    ids.write_bytes(ids.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"ids\.bin should have 28 bytes: delete .*tokens, it is made anew"):
        TokenFile.opened(tmp_path / "tokens", "key")
