"""What is hidden and what it is hidden in: nothing twice, and nothing that contains what is asked for."""

import random
import re
from itertools import islice
from pathlib import Path

import pytest

from handscroll.text.chronicle import Names
from handscroll.text.tasks import write_sample
from handscroll.text.tasks.chronicle_qa import KINDS, World
from handscroll.text.tasks.haystack import hay
from handscroll.text.tasks.vocabulary import distinct, distinct_words, single_words

SHAPES = {
    "numbers": r"[1-9]\d{6}",
    "hex": r"[0-9a-f]{32}",
    "uuids": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes(kind: str) -> None:
    drawn = list(islice(distinct(kind, "en", random.Random(1)), 500))
    assert len(set(drawn)) == 500
    assert all(re.fullmatch(SHAPES[kind], value) for value in drawn)


@pytest.mark.parametrize(("lang", "shape"), [("en", r"[a-z]+(-[a-z]+)+"), ("zh", r"[\u4e00-\u9fff]{4,}")])
def test_words_without_end(lang: str, shape: str) -> None:
    first = next(distinct("words", lang, random.Random(1)))
    # More than there are pairs of a Chinese adjective and noun.
    drawn = list(islice(distinct("words", lang, random.Random(1), [first]), 30_000))
    assert len(set(drawn)) == 30_000
    assert all(re.fullmatch(shape, word) for word in drawn)
    assert not any(first in word for word in drawn)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_single_words_come_first(lang: str) -> None:
    common = single_words(lang)[100]
    count = len(single_words(lang)) + 2000
    drawn = list(islice(distinct_words(lang, random.Random(1), [common]), count))
    assert len(set(drawn)) == count
    assert not any(common in word for word in drawn)
    alone = [word in single_words(lang) for word in drawn]
    assert sum(alone) > 500
    assert alone == sorted(alone, reverse=True)


def test_no_distractor_has_a_key_or_value_that_is_asked_for() -> None:
    options = {"haystack": "needles", "value": "words"}
    sample = write_sample("needle", tokens=60_000, lang="zh", questions=20, options=options)
    for asked in sample.asked:
        key = asked.question.removeprefix("文中提到的").removesuffix("的特殊魔法词语是什么？")
        assert sample.context.count(key) == 1
        assert sample.context.count(asked.answers[0]) == 1


def test_an_essay_never_gives_the_answer_away(tmp_path: Path) -> None:
    file = tmp_path / "essay.txt"
    file.write_text("The first is here. The secret is\nthere. The third is nowhere.", encoding="utf-8")
    source = hay("essay", "en", random.Random(1), (str(file),))
    assert sorted(islice(source, 3)) == ["The first is here.", "The secret is there.", "The third is nowhere."]
    source = hay("essay", "en", random.Random(1), (str(file),), ["secret"])
    assert set(islice(source, 9)) == {"The first is here.", "The third is nowhere."}
    with pytest.raises(ValueError, match="hold no sentence to hide anything in"):
        hay("essay", "en", random.Random(1), (str(file),), ["The"])


def test_common_words_are_no_part_of_each_other() -> None:
    for seed in range(80):
        answers = write_sample("common_words", tokens=1500, lang="en", seed=seed).asked[0].answers
        assert sum(one in other for one in answers for other in answers) == len(answers)


def test_nobody_reserved_is_drawn() -> None:
    world = World("zh", "read", random.Random(1))
    world.reserved.update(Names("zh", "read").take(3000))
    facts = [world.fact("teacher", "A") for _ in range(300)]
    assert not any(fact.answer in world.reserved for fact in facts)


@pytest.mark.parametrize(("kind", "reserved"), [("unanswerable", 1), ("aggregation", 1), ("one_hop", 0)])
def test_who_and_what_is_reserved(kind: str, reserved: int) -> None:
    world = World("en", "read", random.Random(1))
    gold = KINDS[kind](world)
    assert len(world.reserved) == reserved
    assert all(word in gold.question for word in world.reserved)
