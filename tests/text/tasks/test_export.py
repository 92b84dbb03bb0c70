"""Rows to train on: readable by the reader of corpora, with the context, the question and the answer."""

import itertools
from pathlib import Path

import pytest

from handscroll.text import read_rows
from handscroll.text.chronicle import Names
from handscroll.text.tasks.export import chat_rows, write_rows


def test_rows_are_read_back(tmp_path: Path) -> None:
    rows = list(chat_rows("kv", tokens=800, count=6, languages=("en", "zh"), seed=3))
    write_rows(tmp_path / "kv.jsonl", rows)
    assert read_rows(tmp_path / "kv.jsonl") == rows
    assert [row["messages"][0]["content"].isascii() for row in rows] == [True, False] * 3
    for row in rows:
        user, assistant = row["messages"]
        assert [user["role"], assistant["role"]] == ["user", "assistant"]
        context, _, _ = user["content"].rpartition("\n")
        assert assistant["content"] in context
    assert len({row["messages"][0]["content"] for row in rows}) == 6
    assert rows == list(chat_rows("kv", tokens=800, count=6, languages=("en", "zh"), seed=3))


def test_several_answers_are_listed() -> None:
    english, chinese = chat_rows("vt", tokens=800, count=2, languages=("en", "zh"))
    assert english["messages"][1]["content"].count(", ") == 4
    assert chinese["messages"][1]["content"].count("、") == 4


def test_nobody_of_a_measurement_is_learnt() -> None:
    rows = list(chat_rows("chronicle", tokens=1000, count=4, languages=("en",)))
    learnt = " ".join(row["messages"][0]["content"] for row in rows)
    assert not any(name in learnt for name in itertools.islice(Names("en", "read"), 20_000))
    assert any(name in learnt for name in itertools.islice(Names("en", "train"), 40_000))
    read = chat_rows("chronicle", tokens=1000, count=1, languages=("en",), options={"split": "read"})
    text = next(read)["messages"][0]["content"]
    assert any(name in text for name in itertools.islice(Names("en", "read"), 40_000))


def test_a_language_is_needed() -> None:
    with pytest.raises(ValueError, match="no language is given"):
        next(chat_rows("kv", tokens=800, count=1, languages=()))
