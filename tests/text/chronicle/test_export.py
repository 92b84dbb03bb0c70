"""The files of a chronicle: columns, agreement with the text, disjoint people, same bytes, nothing half-written."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from handscroll.text import read_rows
from handscroll.text.chronicle import RELATIONS
from handscroll.text.chronicle import export as export_chronicle

FILES = ["chats.jsonl", "preferences.jsonl", "questions.jsonl", "text.txt", "triples.jsonl"]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_files_agree(tmp_path: Path) -> None:
    document = export_chronicle(tmp_path, seed=7, size=8000, chats=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    text = (tmp_path / "text.txt").read_text(encoding="utf-8")
    assert text == document.text
    triples = rows(tmp_path / "triples.jsonl")
    assert len(triples) == len(document.facts)
    assert set(triples[0]) == {"subject", "relation", "object", "lang"}
    truth = {(t["subject"], t["relation"]): t["object"] for t in triples}
    questions = rows(tmp_path / "questions.jsonl")
    assert list(questions[0]) == [
        "id", "lang", "question", "answers", "relation", "subject", "fact_start", "fact_end",
    ]  # fmt: skip
    for asked in questions:
        sentence = text[asked["fact_start"] : asked["fact_end"]]
        assert asked["subject"] in sentence
        assert asked["answers"] == [truth[asked["subject"], asked["relation"]]]
        assert asked["answers"][0] in sentence
    for row in rows(tmp_path / "preferences.jsonl"):
        assert set(row) == {"prompt", "chosen", "rejected"}
        assert row["chosen"] != row["rejected"]
    chats = read_rows(tmp_path / "chats.jsonl")
    assert len(chats) == 60
    subjects = {t["subject"] for t in triples}
    learned = json.dumps(chats, ensure_ascii=False) + (tmp_path / "preferences.jsonl").read_text(encoding="utf-8")
    assert not any(subject in learned for subject in subjects)
    for chat in chats:
        user, assistant = chat["messages"]
        excerpt, _, asked = user["content"].rpartition("\n")
        subject, answer = taken_apart(assistant["content"])
        assert subject in asked
        assert any(subject in part and answer in part for part in re.split("[.。]", excerpt))


def taken_apart(answered: str) -> tuple[str, str]:
    """Subject and answer of an answer sentence."""
    for relation in RELATIONS.values():
        for words in relation.wordings.values():
            pattern = words.answer.replace(".", r"\.").replace("{name}", "(.+)").replace("{answer}", "(.+)")
            if match := re.fullmatch(pattern, answered):
                return match[1], match[2]
    raise AssertionError(answered)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        export_chronicle(tmp_path / folder, seed=seed, languages=("zh",), size=2000, chats=5, questions_per_language=4)
    for name in FILES:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        assert content != (tmp_path / "c" / name).read_bytes()
    assert len(rows(tmp_path / "a" / "questions.jsonl")) == 4
    assert {row["relation"] for row in rows(tmp_path / "a" / "triples.jsonl")} == set(RELATIONS)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ask fewer"):
        export_chronicle(tmp_path / "new", seed=1, size=100, questions_per_language=10**6)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="can't be written"):
        export_chronicle(tmp_path / "file", seed=1, size=100)
