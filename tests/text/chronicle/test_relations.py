"""Wordings: what a question shares with its fact, how many there are, and how answers are drawn."""

import random
import re
import time
from collections import Counter
from collections.abc import Iterable
from itertools import product

import pytest

from handscroll.text import Tokenizer
from handscroll.text.chronicle import (
    LANGUAGES,
    RELATIONS,
    Fact,
    Names,
    answer_sentence,
    draw_answer,
    draw_fact,
    fact_sentence,
    filler,
    question,
)
from handscroll.text.chronicle.fillers import SLOTS, TEMPLATES
from handscroll.text.chronicle.relations import state, wording

CASES = list(product(RELATIONS, LANGUAGES))
JOINT = {"en": " ", "zh": ""}


def runs(tokenizer: Tokenizer, text: str, length: int) -> dict[tuple[int, ...], tuple[int, int]]:
    """Runs of tokens and the characters that they cover."""
    ids, offsets = tokenizer.encode_with_offsets(text)
    return {
        tuple(ids[start : start + length]): (offsets[start][0], offsets[start + length - 1][1])
        for start in range(len(ids) - length + 1)
    }


@pytest.mark.parametrize(("relation", "lang"), CASES)
@pytest.mark.parametrize("kind", ["merged", "isolated_2048", "isolated", "isolated_4096"])
def test_fact_and_question_share_no_four_tokens_but_the_name(
    relation: str, lang: str, kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    rng = random.Random(3)
    names = Names(lang, "read")
    words = wording(relation, lang)
    for asked in words.questions:
        # A question of another relation must not look like the fact either.
        for template, stated in ((t, r) for r in RELATIONS for t in wording(r, lang).facts):
            fact = draw_fact(stated, names.draw(rng), rng, names)
            if fact.relation == "teacher" and fact.answer.split()[-1] == fact.subject.split()[-1]:
                continue
            sentence = JOINT[lang] + template.replace("{name}", fact.subject).replace("{answer}", fact.answer)
            questioned = JOINT[lang] + asked.replace("{name}", fact.subject)
            name_start = sentence.index(fact.subject)
            allowed = (name_start - len(JOINT[lang]), name_start + len(fact.subject))
            in_question = runs(tokenizer, questioned, 4)
            for run, (start, end) in runs(tokenizer, sentence, 4).items():
                if stated == relation or kind != "merged":
                    inside = allowed[0] <= start and end <= allowed[1]
                    assert inside or run not in in_question, (template, asked, sentence[start:end])


@pytest.mark.parametrize(("relation", "lang"), CASES)
def test_the_words_beside_the_name_differ(relation: str, lang: str) -> None:
    pattern = r"(\w+|[^\w\s])?\s*\{name\}\s*(\w+|[^\w\s])?" if lang == "en" else r"(.)?\{name\}(.)?"

    def beside(templates: tuple[str, ...]) -> list[set[str]]:
        found = [match.groups() for t in templates if (match := re.search(pattern, t))]
        return [{pair[side] for pair in found if pair[side]} for side in (0, 1)]

    words = wording(relation, lang)
    for facts, questions in zip(beside(words.facts), beside(words.questions), strict=True):
        assert not facts & questions


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_precedes_the_name_in_an_answer_precedes_none_elsewhere(lang: str) -> None:
    """Else a reader copies names from facts and earlier questions while it restates the one that is asked for."""
    pattern = r"(\S+) \{name\}" if lang == "en" else r"(.)\{name\}"

    def before(templates: Iterable[str]) -> set[str]:
        return {match[1] for template in templates if (match := re.search(pattern, template))}

    all_words = [wording(relation, lang) for relation in RELATIONS]
    answers = before(words.answer for words in all_words)
    assert answers
    assert not answers & before(template for words in all_words for template in (*words.facts, *words.questions))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_precedes_the_name_in_a_question_does_so_in_several(lang: str) -> None:
    pattern = r"(\w+) \{name\}" if lang == "en" else r"(.)\{name\}"
    questions = [template for relation in RELATIONS for template in wording(relation, lang).questions]
    counts = Counter(match[1] for template in questions if (match := re.search(pattern, template)))
    assert counts.total() == len(questions)
    assert min(counts.values()) >= 3


@pytest.mark.parametrize(("relation", "lang"), CASES)
def test_wordings_share_no_three_words(relation: str, lang: str) -> None:
    def parts(template: str) -> list[str]:
        return re.findall(r"\{\w+\}|\w+", template) if lang == "en" else re.findall(r"\{\w+\}|.", template)

    def grams(template: str, length: int) -> set[tuple[str, ...]]:
        split = parts(template)
        return {tuple(split[i : i + length]) for i in range(len(split) - length + 1)}

    words = wording(relation, lang)
    length = 3 if lang == "en" else 4
    for fact in words.facts:
        for other in (*words.questions, words.answer):
            assert not grams(fact, length) & grams(other, length), (fact, other)


@pytest.mark.parametrize(("relation", "lang"), CASES)
def test_enough_wordings_and_answers(relation: str, lang: str) -> None:
    words = wording(relation, lang)
    assert len(set(words.facts)) >= 4
    assert len(set(words.questions)) >= 4
    for template in words.facts:
        between = re.fullmatch(r".*\{name\}(.*)\{answer\}.*", template)
        assert between is not None, template
        assert len(between[1].split() if lang == "en" else between[1]) <= 3, template
    if lang == "en":  # at the start of a text a name would be cut otherwise than after a space
        assert not any(template.startswith("{name}") for template in (*words.facts, *words.questions, words.answer))
    rng = random.Random(0)
    answers = {draw_answer(relation, lang, rng, Names(lang, "read")) for _ in range(3000)}
    assert len(answers) >= 50
    longest = 2 if lang == "en" else 4
    assert all(1 <= len(answer.split() if lang == "en" else answer) <= longest for answer in answers)


def test_sentences_are_short(isolated: Tokenizer) -> None:
    rng = random.Random(0)
    for relation, lang in CASES:
        names = Names(lang, "train")
        lengths = [
            len(isolated.encode(JOINT[lang] + fact_sentence(draw_fact(relation, names.draw(rng), rng, names), rng)))
            for _ in range(100)
        ]
        assert 10 <= sum(lengths) / len(lengths) <= 26, (relation, lang)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_rest_of_an_answer_follows_from_its_beginning(lang: str) -> None:
    pools = [entry.pool[lang] for entry in RELATIONS.values() if entry.pool]
    assert all(len(pool) >= 50 for pool in pools)
    beginnings = [answer.split()[0] if lang == "en" else answer[0] for pool in pools for answer in pool]
    assert len(set(beginnings)) == len(beginnings)


def test_years_are_of_one_century() -> None:
    rng = random.Random(0)
    for lang in LANGUAGES:
        years = {draw_answer("birth_year", lang, rng, Names(lang, "read")) for _ in range(5000)}
        assert years == {f"{year}年" if lang == "zh" else str(year) for year in range(800, 900)}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_answer_position_and_restatement(lang: str) -> None:
    rng = random.Random(1)
    names = Names(lang, "train")
    for relation in RELATIONS:
        for _ in range(50):
            fact = draw_fact(relation, names.draw(rng), rng, names)
            sentence, answer_start = state(fact, rng)
            assert sentence[answer_start : answer_start + len(fact.answer)] == fact.answer
            assert fact.subject in sentence
            assert fact.answer != fact.subject
            assert fact.subject in question(fact, rng)
            assert answer_sentence(fact).rstrip(".。").endswith(fact.answer)
    birthplace = Fact("en", "birthplace", "Karen Smith", "Delft")
    assert answer_sentence(birthplace) == "For Karen Smith the birthplace was Delft."
    assert answer_sentence(Fact("zh", "birthplace", "王伟", "青州")) == "要说出生地那王伟是青州。"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_fillers_are_many_and_say_nothing_of_the_answers(lang: str) -> None:
    rng = random.Random(0)
    assert len({filler(lang, rng) for _ in range(20_000)}) > 4000
    text = "|".join([*TEMPLATES[lang], *(value for values in SLOTS[lang].values() for value in values)])
    for entry in RELATIONS.values():
        for answer in (entry.pool or {}).get(lang, ()):
            assert not re.search(rf"\b{answer}\b" if lang == "en" else answer, text), answer


def test_fast_and_deterministic() -> None:
    def sentences(seed: int, count: int) -> list[str]:
        rng = random.Random(seed)
        names = {lang: Names(lang, "train") for lang in LANGUAGES}
        written = []
        for relation, lang in (CASES * (count // len(CASES) + 1))[:count]:
            fact = draw_fact(relation, names[lang].draw(rng), rng, names[lang])
            written += [fact_sentence(fact, rng), question(fact, rng), filler(lang, rng)]
        return written

    assert sentences(1, 200) == sentences(1, 200) != sentences(2, 200)
    start = time.process_time()
    sentences(1, 33_000)
    assert time.process_time() - start < 4  # about half a second on a machine that does nothing else


def test_unknown_names_are_value_errors() -> None:
    rng = random.Random(0)
    with pytest.raises(ValueError, match="knows birthplace, home"):
        draw_answer("shoe", "en", rng, Names("en", "read"))
    with pytest.raises(ValueError, match="worded in en, zh"):
        fact_sentence(Fact("fr", "home", "Jean", "Paris"), rng)
    with pytest.raises(ValueError, match="exist in en, zh"):
        filler("fr", rng)
