"""Rows with their units: what conversations and texts become, what is refused, and when words are found anew."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handscroll.recipes.data import read_data
from handscroll.recipes.documents import token_rows
from handscroll.recipes.events import Advance
from handscroll.recipes.schema import Data
from handscroll.recipes.unit_rows import unit_row
from handscroll.text import Corpus, Skipped, Tokenizer
from handscroll.text.units import Mark, Names, UnitFinder

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Where is Anna?\n"},
    {"role": "assistant", "content": "In Kyoto with the old man."},
    {"role": "assistant", "content": " "},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture(scope="module")
def bracketed() -> Tokenizer:
    texts = ["Be kind. Where is Anna? In Kyoto with the old man. Why? 我在北京。"] * 3
    return Tokenizer.train(texts, 320, han="isolated", roles=("mask", "cls", "sep"))


def test_a_conversation_is_its_turns(bracketed: Tokenizer) -> None:
    row = unit_row({"messages": CHAT}, bracketed, UnitFinder())
    ids, marks = np.asarray(row.ids), row.units
    assert marks is not None
    sep = bracketed.role_id("sep")
    said = ["Be kind.", "Where is Anna?", "In Kyoto with the old man.", "Why?"]
    assert ids.tolist() == [id_ for text in said for id_ in [*bracketed.encode(text), sep]]
    ends = np.flatnonzero(ids == sep)
    assert np.flatnonzero(marks & Mark.TURN).tolist() == [0, *(ends[:-1] + 1)]
    is_response = np.zeros(len(ids), dtype=bool)
    is_response[ends[1] + 1 : ends[2] + 1] = True
    assert ((marks & Mark.RESPONSE > 0) == is_response).all()
    entities = bracketed.decode(ids[(marks & Mark.LEVEL) == 2].tolist()).split()
    assert entities == ["Anna", "Kyoto"]


def test_a_text_and_a_completion_have_their_units_and_no_turns(bracketed: Tokenizer) -> None:
    text = unit_row({"text": "我在北京。\nI see Anna."}, bracketed, UnitFinder())
    parts = unit_row({"prompt": "我在北京。\n", "completion": "I see Anna."}, bracketed, UnitFinder())
    assert np.array_equal(text.ids, parts.ids)
    assert text.units is not None
    assert parts.units is not None
    assert np.array_equal(text.units, parts.units)
    assert not (text.units & (Mark.TURN | Mark.RESPONSE)).any()
    assert bracketed.decode(np.asarray(text.ids)[text.units & Mark.LEVEL == 2].tolist()) == "北京 Anna"


def test_a_long_text_tells_how_far_it_has_come(tmp_path: Path, bracketed: Tokenizer) -> None:
    (tmp_path / "long.txt").write_text("Where is Anna?\n" * 3000, encoding="utf-8")
    heard: list[Any] = []
    data = Data(files=(str(tmp_path / "long.txt"),))
    [rows] = read_data(data, bracketed, "ernie", None, heard.append, UnitFinder())
    shares = [event.done / event.total for event in heard if isinstance(event, Advance)]
    assert len(shares) >= 3
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[-1] == 1
    alone = unit_row({"text": "Where is Anna?\n"}, bracketed, UnitFinder())
    assert alone.units is not None
    length = len(alone.ids)
    assert rows.lengths_N.tolist() == [3000 * length]
    part = rows.part(0, 1200 * length, 1201 * length)
    assert part.units is not None
    # Anna is known as a name in every piece.
    assert part.units.tolist() == alone.units.tolist()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "content of message 1 is"),
        ({"messages": [{"role": "user", "content": " "}]}, "this row says nothing"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "ernie learns from text, completion, messages"),
    ],
)
def test_rows_that_have_no_words(row: dict[str, Any], says: str, tmp_path: Path, bracketed: Tokenizer) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (row, {"text": "Why?"})), encoding="utf-8")
    with pytest.raises(ValueError, match=f"rows.jsonl:1: .*{says}"):
        [*token_rows(Corpus(path), bracketed, "ernie", finder=UnitFinder())]
    skipped = Skipped()
    assert len([*token_rows(Corpus(path, skipped), bracketed, "ernie", finder=UnitFinder())]) == 1
    assert skipped.count == 1


def test_words_are_found_anew_for_another_dictionary(tmp_path: Path, bracketed: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("Where is the old man?", encoding="utf-8")
    data, folder = Data(files=(str(tmp_path / "a.txt"),)), tmp_path / "tokens"

    def entities(finder: UnitFinder) -> int:
        [rows] = read_data(data, bracketed, "ernie", folder, finder=finder)
        units = rows.part(0, 0, 100).units
        assert units is not None
        return int(((units & Mark.LEVEL == 2) & (units & Mark.UNIT > 0)).sum())

    assert entities(UnitFinder()) == 0
    assert entities(UnitFinder(Names(others={"ol": ["old man"]}))) == 1
    assert entities(UnitFinder()) == 0
