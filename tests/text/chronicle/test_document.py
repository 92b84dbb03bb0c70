"""Documents: exact places, an even mixture, any size, and facts planted in a given text."""

import random
from collections import Counter
from pathlib import Path

import pytest

from handscroll.text import Tokenizer
from handscroll.text.chronicle import Document, Names, even_questions, plant, write_document

TEXTS = Path(__file__).parents[4] / "shared" / "data" / "text"


def check_places(document: Document) -> None:
    previous = 0
    for placed in document.facts:
        sentence = document.text[placed.fact_start : placed.fact_end]
        assert placed.fact.subject in sentence
        assert sentence[-1] in ".。"
        assert sentence.count(".") + sentence.count("。") == 1
        assert document.text[placed.answer_start : placed.answer_end] == placed.fact.answer
        assert placed.fact_start <= placed.answer_start < placed.answer_end < placed.fact_end
        assert placed.fact_start >= previous
        previous = placed.fact_end


def test_a_document(isolated: Tokenizer) -> None:
    document = write_document(5, ("en", "zh"), 40_000, measure=lambda text: len(isolated.encode(text)))
    check_places(document)
    assert document.tokens == len(isolated.encode(document.text))
    assert 40_000 <= document.tokens < 40_900
    subjects = Counter((placed.fact.subject, placed.fact.relation) for placed in document.facts)
    assert max(subjects.values()) == 1
    sentences = sum(map(document.text.count, ".。"))
    assert 0.085 < len(document.facts) / sentences < 0.115
    shares = Counter[str]()
    for paragraph in document.text.splitlines():
        wide = any("\u4e00" <= character <= "\u9fff" for character in paragraph)
        assert wide != any(character.isascii() and character.isalpha() for character in paragraph)
        shares["zh" if wide else "en"] += len(isolated.encode(paragraph + "\n"))
    assert abs(shares["zh"] - shares["en"]) < 1200
    names = {placed.fact.subject for placed in document.facts}
    assert not any(paragraph.startswith(tuple(names)) for paragraph in document.text.splitlines())
    read = {lang: set(Names(lang, "read", 5).take(3000)) for lang in ("en", "zh")}
    assert all(placed.fact.subject in read[placed.fact.lang] for placed in document.facts)


def test_seeds_sizes_and_languages() -> None:
    assert write_document(1, ("en",), 3000) == write_document(1, ("en",), 3000)
    assert write_document(1, ("en",), 3000).text != write_document(2, ("en",), 3000).text
    assert write_document(1, ("en",), 3000).text != write_document(1, ("en",), 3000, split="train").text
    long = write_document(1, ("zh",), 10, min_characters=20_000)
    assert long.languages == ("zh",)
    assert 20_000 <= len(long.text) < 20_600
    # A longer document begins as the shorter one does.
    assert write_document(1, ("zh", "en"), 4000).text.startswith(write_document(1, ("zh", "en"), 2000).text)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="size is 0"):
        write_document(1, ("en",), 0)
    with pytest.raises(ValueError, match="one or more different ones of en, zh"):
        write_document(1, (), 10)
    with pytest.raises(ValueError, match="speaks en, zh"):
        write_document(1, ("fr",), 10)
    with pytest.raises(ValueError, match="one of train, read"):
        write_document(1, ("en",), 10, split="dev")


def test_questions_are_even_over_the_depth() -> None:
    document = write_document(3, ("en", "zh"), 144_000)
    questions = even_questions(document, 50, random.Random(0))
    assert Counter(asked.lang for asked in questions) == {"en": 50, "zh": 50}
    assert len({asked.id for asked in questions}) == 100
    assert {asked.relation for asked in questions} >= {"home", "teacher", "birth_year"}
    for lang in ("en", "zh"):
        depths = [asked.fact_start / len(document.text) for asked in questions if asked.lang == lang]
        assert all(abs(depth - (number + 0.5) / 50) < 0.03 for number, depth in enumerate(depths))
    for asked in questions:
        sentence = document.text[asked.fact_start : asked.fact_end]
        assert asked.subject in sentence
        assert asked.answers[0] in sentence
        assert asked.subject in asked.question
    last = even_questions(document, 5, random.Random(0), within=(len(document.text) - 5000, len(document.text)))
    assert min(asked.fact_start for asked in last) >= len(document.text) - 5000
    assert even_questions(document, 50, random.Random(0)) == questions
    with pytest.raises(ValueError, match="give a longer document or ask fewer"):
        even_questions(document, 100_000, random.Random(0))


ENGLISH = 'Mr. Smith saw Dr. Jones. "It rains." They left. Then the U.S. envoy came in. Nobody spoke. ' * 30
CHINESE = "他说：“下雨了。”大家走了。后来来了一个人（姓王。）没有人说话。\n" * 30


@pytest.mark.parametrize(("text", "lang"), [(ENGLISH, "en"), (CHINESE, "zh")])
def test_planted_facts_stand_between_sentences(text: str, lang: str) -> None:
    document = plant(text, 4, lang, 12)
    check_places(document)
    left = document.text
    for placed in reversed(document.facts):
        end = placed.fact_end + (lang == "en")
        left = left[: placed.fact_start] + left[end:]
        before = document.text[: placed.fact_start]
        assert before.endswith(". " if lang == "en" else ("。", "。”", "。）"))
        assert not before.endswith(("Mr. ", "Dr. ", "U.S. "))
        assert document.text[placed.fact_end] not in "”）"
    assert left == text
    depths = [placed.fact_start / len(document.text) for placed in document.facts]
    assert all(abs(depth - (number + 0.5) / 12) < 0.08 for number, depth in enumerate(depths))
    assert plant(text, 4, lang, 12) == document
    assert plant(text, 5, lang, 12) != document
    assert len({placed.fact.subject for placed in document.facts}) == 12


def test_planting_too_many_or_nothing() -> None:
    with pytest.raises(ValueError, match="give a longer text or plant fewer"):
        plant("One sentence. Two. Three.", 1, "en", 5)
    with pytest.raises(ValueError, match="count of planted facts is 0"):
        plant(ENGLISH, 1, "en", 0)
    with pytest.raises(ValueError, match="planted in en, zh"):
        plant(ENGLISH, 1, "fr", 1)
    assert len(plant(CHINESE, 1, "zh", 60).facts) == 60  # nearly every sentence end is used


@pytest.mark.parametrize(("name", "lang"), [("en_war_and_peace.txt", "en"), ("zh_hongloumeng.txt", "zh")])
def test_planting_in_a_novel(name: str, lang: str) -> None:
    if not (TEXTS / name).is_file():
        pytest.skip(f"the novel {name} is not in shared/data/text beside the repository")
    text = (TEXTS / name).read_text(encoding="utf-8")
    document = plant(text, 7, lang, 100)
    check_places(document)
    depths = [placed.fact_start / len(document.text) for placed in document.facts]
    assert all(abs(depth - (number + 0.5) / 100) < 0.01 for number, depth in enumerate(depths))
    assert not any(placed.fact.subject in text for placed in document.facts)
