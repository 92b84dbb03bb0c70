"""Units against jieba's own words, examples worked out by hand in both languages, and tokens that cross their ends."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from jieba.posseg import POSTokenizer

from handscroll.text import Tokenizer
from handscroll.text.jieba_words import shared_dictionary
from handscroll.text.units import LEVELS, Mark, UnitFinder, read_names
from handscroll.text.units.english import english_spans, words_in
from handscroll.text.units.names import Names

CHINESE = "诸葛亮在成都的丞相府工作，王小红喜欢人工智能。北京大学的李开复教授访问了东京。"
ENGLISH = (
    "Dr. Anna Smith lives in the quiet old town. Yesterday the national education failed at the Bank of England. "
    "I met President J. R. Lee's wife in New York. The man sings. She told Anna so."
)


def units(text: str, marks: np.ndarray) -> list[tuple[str, str]]:
    """The units above the basic level, in order, with their level."""
    starts = [*np.flatnonzero(marks & Mark.UNIT), len(text)]
    found = [(text[a:b], LEVELS[marks[a] & Mark.LEVEL]) for a, b in pairwise(starts)]
    return [unit for unit in found if unit[1] != "token"]


def words(text: str, marks: np.ndarray) -> list[str]:
    starts = [*np.flatnonzero(marks & Mark.WORD), len(text)]
    return [text[a:b] for a, b in pairwise(starts)]


def test_chinese_worked_out_by_hand() -> None:
    marks = UnitFinder().marks(CHINESE)
    assert units(CHINESE, marks) == [
        ("诸葛亮", "entity"), ("成都", "entity"), ("丞相", "phrase"), ("工作", "phrase"), ("王小红", "entity"),
        ("喜欢", "phrase"), ("人工智能", "phrase"), ("北京大学", "entity"), ("李开复", "entity"), ("教授", "phrase"),
        ("访问", "phrase"), ("东京", "entity"),
    ]  # fmt: skip
    assert words(CHINESE, marks) == [*CHINESE]


def test_english_worked_out_by_hand() -> None:
    marks = UnitFinder().marks(ENGLISH)
    assert units(ENGLISH, marks) == [
        ("Dr. Anna Smith", "entity"), ("the quiet old town", "phrase"), ("the national education", "phrase"),
        ("Bank of England", "entity"), ("President J. R. Lee", "entity"), ("New York", "entity"),
        ("The man", "phrase"), ("Anna", "entity"),
    ]  # fmt: skip
    assert words(ENGLISH, marks)[:7] == ["Dr", ".", " ", "Anna", " ", "Smith", " "]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Kyoto is far. We love Kyoto.", ["Kyoto", "Kyoto"]),  # known from elsewhere in the text
        ("Singing is fun. Anna Lee sings.", ["Anna Lee"]),  # the first word of a sentence alone is no name
        ("He said: Come! The King of the Belgians came.", ["King of the Belgians"]),
        ("I saw the sea. It was I.", []),
        ("Жанна видела Москву.", ["Москву"]),
    ],
)
def test_names_and_the_beginnings_of_sentences(text: str, names: list[str]) -> None:
    spans = english_spans(text, words_in(text))
    assert [text[span.start : span.end] for span in spans if LEVELS[span.level] == "entity"] == names


def test_units_end_where_jiebas_words_do() -> None:
    """On words that are in jieba's dictionary its tagger cuts and tags as we do."""
    text = "我来到北京清华大学，小明硕士毕业于中国科学院计算所，现于日本京都大学深造。"
    expected, names = [], ("nr", "ns", "nt", "nz")
    for word, tag in POSTokenizer(shared_dictionary()).cut(text):
        if len(word) > 1:
            expected.append((word, "entity" if tag[:2] in names else "phrase"))
    assert units(text, UnitFinder().marks(text)) == expected


def test_the_user_s_entities(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("量子计算 5 n\nred planet\nred\nGPT-4模型\n\n花木\n", encoding="utf-8")
    names = read_names(tmp_path / "names.txt")
    assert names.han == ("花木", "量子计算")
    finder = UnitFinder(names)
    text = "我爱量子计算与GPT-4模型。a red planet, a tired red fox, redder. 花木兰来了"
    found = [unit for unit, level in units(text, finder.marks(text)) if level == "entity"]
    # 花木兰 is a word of jieba's own, whatever names lie within it.
    assert found == ["量子计算", "GPT-4模型", "red planet", "red", "花木兰"]
    assert finder.fingerprint != UnitFinder().fingerprint
    assert UnitFinder(Names()).fingerprint == UnitFinder().fingerprint


@pytest.mark.parametrize(("content", "message"), [(b"\n \n", "names no entity"), (b"\xff\xfe\x00", "can't be read")])
def test_dictionaries_that_say_nothing(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        UnitFinder.of(str(tmp_path / "names.txt"))
    with pytest.raises(ValueError, match="can't be read"):
        UnitFinder.of(str(tmp_path / "missing.txt"))


def of_tokens(text: str, offsets: list[tuple[int, int]]) -> list[list[int]]:
    """Level, and whether a word and a unit begin and what straddles, by token."""
    marks = UnitFinder().token_marks(text, offsets)
    bits = (Mark.WORD, Mark.UNIT, Mark.STRADDLES)
    return [[int(mark & Mark.LEVEL), *(int(mark & bit > 0) for bit in bits)] for mark in marks]


def test_tokens_of_a_unit_with_spaces_and_pieces() -> None:
    """In New Yorkshire: a blank belongs to the name, with a word or by itself; pieces of a word are one basic unit."""
    expected = [[0, 1, 1, 0], [2, 1, 1, 0], [2, 1, 0, 0], [2, 0, 0, 0], [0, 1, 1, 0]]
    assert of_tokens("In New Yorkshire.", [(0, 2), (2, 6), (6, 11), (11, 16), (16, 17)]) == expected
    blank = [[0, 1, 1, 0], [0, 1, 1, 0], [2, 1, 1, 0], [2, 1, 0, 0], [2, 1, 0, 0], [0, 1, 1, 0]]
    assert of_tokens("In New Yorkshire.", [(0, 2), (2, 3), (3, 6), (6, 7), (7, 16), (16, 17)]) == blank


def test_bytes_of_a_character_are_one_and_a_token_across_an_end_joins_its_units() -> None:
    # 我 by two of its bytes; 在北 holds a character of 北京 and the word before it, so that all three are one entity.
    found = of_tokens("我在北京唱", [(0, 1), (0, 1), (1, 3), (3, 4), (4, 5)])
    assert found == [[0, 1, 1, 0], [0, 0, 0, 0], [2, 1, 1, 1], [2, 1, 0, 0], [0, 1, 1, 0]]
    assert of_tokens("去北京了", [(0, 4)]) == [[2, 1, 1, 1]]
    assert of_tokens("我", [(0, 1)]) == [[0, 1, 1, 0]]
    assert of_tokens("", []) == []


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_every_token_is_in_the_unit_of_its_characters(kind: str) -> None:
    """Of a real tokenizer whose tokens don't cross words: decoded units are the text's."""
    text = CHINESE + " " + ENGLISH
    tokenizer = Tokenizer.train([text] * 3, 420, kind=kind, han="isolated", roles=("mask", "cls", "sep"))
    finder = UnitFinder()
    ids, offsets = tokenizer.encode_with_offsets(text)
    marks = finder.token_marks(text, offsets)
    starts = [*np.flatnonzero(marks & Mark.UNIT), len(ids)]
    found = [
        (text[offsets[a][0] : offsets[b - 1][1]].strip(), LEVELS[marks[a] & Mark.LEVEL]) for a, b in pairwise(starts)
    ]
    assert [unit for unit in found if unit[1] != "token"] == units(text, finder.marks(text))
    assert not (marks & Mark.STRADDLES).any()
