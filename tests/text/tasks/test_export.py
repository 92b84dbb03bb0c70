"""Rows to train on: readable by the reader of corpora, with the context, the question and the answer."""

import itertools
import re
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


SENTENCES = {"form": "sentence", "keys": "words"}


def test_answers_restate_what_was_asked() -> None:
    for task, options in (("passkey", {}), ("number", {}), ("kv", SENTENCES), ("needle", {"values": 4})):
        for row in chat_rows(task, tokens=900, count=2, languages=("en", "zh"), options=options, restated=True):
            user, assistant = (message["content"] for message in row["messages"])
            context, _, question = user.rpartition("\n")
            said = re.findall(r"(?:It says |据载)(.+?)([0-9a-f-]{5,})[.。]", assistant)
            assert len(said) == (4 if task == "needle" else 1)
            # What is said stands in the text word for word, and the key at its beginning in the question.
            assert all(stated + value in context for stated, value in said)
            assert all(question.count(re.match("[a-z-]+|.{4}", stated)[0]) == 1 for stated, _ in said)  # type: ignore[index]
    with pytest.raises(ValueError, match="vt has no answers that restate"):
        next(chat_rows("vt", tokens=800, count=1, languages=("en",), restated=True))


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_an_answer_about_several_keys_goes_from_one_to_the_next_as_the_question_does(lang: str) -> None:
    options = {"values": 2, "queries": 3}
    [row] = chat_rows("needle", tokens=1200, count=1, languages=(lang,), options=options, restated=True)
    user, assistant = (message["content"] for message in row["messages"])
    context, _, question = user.rpartition("\n")
    sentences = [said.strip() for said in re.findall("[^.。]+[.。]", assistant)]
    opening, keys = {"en": "It says ", "zh": "据载"}[lang], r"[a-z]+-[a-z]+" if lang == "en" else "[\u4e00-\u9fff]{4}"
    pattern = f"({keys})(, |、)({keys})(, and |和)({keys})"
    match = re.search(pattern, question.removeprefix("文中提到的"))
    assert match is not None
    first, comma, second, last_joint, third = match.groups()
    leads = [opening, opening, first + comma, opening, second + last_joint, opening]
    for said, lead, key in zip(sentences, leads, [first, first, second, second, third, third], strict=True):
        assert said.startswith(lead + key), said
        assert said.removeprefix(lead) in context


def test_further_questions_are_further_turns() -> None:
    [row] = chat_rows("chronicle", tokens=900, count=1, languages=("zh",), questions=5, restated=True)
    messages = row["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 5
    context, _, question = messages[0]["content"].rpartition("\n")
    questions = [question, *(message["content"] for message in messages[2::2])]
    assert len(set(questions)) == 5
    assert max(map(len, questions)) < 40 < len(context)
    # Who is asked for stands in the answer, which begins as all answers do.
    for asked, said in zip(questions, messages[1::2], strict=True):
        assert said["content"].startswith("要说")
        name = max(part for part in re.findall("(?=(..))", asked) if part in context and part in said["content"])
        assert name
    with pytest.raises(ValueError, match="chronicle has no answers that restate"):
        next(
            chat_rows("chronicle", tokens=900, count=1, languages=("en",), restated=True, options={"kind": "two_hops"})
        )
