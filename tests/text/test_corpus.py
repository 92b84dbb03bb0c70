"""Rows with their places, and bad ones: an error by default, counted and named where that is asked for."""

import json
from pathlib import Path

import pytest

from handscroll.text import Corpus, Skipped

ROWS = 5000
BAD = {17: '{"text": ', 1234: '{"body": "x"}', 4321: "[1]", 4322: '{"text": null}', 4323: "\x00", 4999: '{"text": 5}'}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    lines = [BAD.get(number, json.dumps({"text": f"row {number}"})) for number in range(1, ROWS + 1)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_the_first_bad_row_is_named_by_file_and_line(broken: Path) -> None:
    seen = []
    with pytest.raises(ValueError, match=rf"{broken}:17: not valid JSON: .* at column 9"):
        seen.extend(Corpus(broken))
    assert [located.number for located in seen] == [*range(1, 17)]


def test_bad_rows_are_counted_and_the_first_named(broken: Path) -> None:
    skipped = Skipped()
    rows = [*Corpus(broken, skipped)]
    assert [located.number for located in rows] == [number for number in range(1, ROWS + 1) if number not in BAD]
    assert rows[-1].place == f"{broken}:5000"
    assert all(located.row == {"text": f"row {located.number}"} for located in rows)
    assert skipped.count == len(BAD)
    assert [line.split(": ")[0] for line in skipped.first] == [f"{broken}:{n}" for n in (17, 1234, 4321, 4322, 4323)]
    assert skipped.describe().startswith("left out 6 bad rows:\n  ")
    assert skipped.describe().endswith("\n  and 1 more")


def test_a_file_of_bad_rows_is_no_corpus(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("body\na\nb\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"(?s)the corpus is empty.*left out 2 bad rows:.*rows\.csv:2"):
        [*Corpus(path, Skipped())]
