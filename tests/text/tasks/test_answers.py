"""Tasks whose answer must be worked out: recomputed here from the text alone, in a slow and simple way."""

import re
from collections import Counter

import pytest

from handscroll.text.chronicle.relations import RELATIONS
from handscroll.text.tasks import write_sample
from handscroll.text.tasks.words import zeta

NUMERALS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
LANGUAGES = pytest.mark.parametrize("lang", ["en", "zh"])
SEEDS = range(6)


def facts(text: str, relation: str, lang: str) -> dict[str, str]:
    """Who the text states the relation of, and what: by matching every wording as a regular expression."""
    found = {}
    name = r"[A-Z][a-z]+ [A-Z][a-z]+" if lang == "en" else r"[\u4e00-\u9fff]{2}"
    answer = r"[A-Za-z0-9 ]+?" if lang == "en" else r"[\u4e00-\u9fff0-9]+?"
    for wording in RELATIONS[relation].wordings[lang].facts:
        pattern = (
            re.escape(wording).replace(r"\{name\}", f"(?P<name>{name})").replace(r"\{answer\}", f"(?P<a>{answer})")
        )
        found.update({match["name"]: match["a"] for match in re.finditer(pattern, text)})
    return found


@LANGUAGES
@pytest.mark.parametrize("seed", SEEDS)
def test_common_words(lang: str, seed: int) -> None:
    sample = write_sample("common_words", tokens=4000, lang=lang, seed=seed)
    words = re.findall(r"\d+\. (\S+)", sample.context)
    counts = Counter(words).most_common()
    assert {word for word, _ in counts[:10]} == set(sample.asked[0].answers)
    assert {count for _, count in counts[:10]} == {30}
    assert {count for _, count in counts[10:]} == {3}
    # A reply is searched for the answers, which must not be found in other words.
    assert not any(answer in word for answer in sample.asked[0].answers for word, _ in counts[10:])


@LANGUAGES
@pytest.mark.parametrize("alpha", [1.3, 2.0, 3.5])
def test_frequent_words(lang: str, alpha: float) -> None:
    sample = write_sample("frequent_words", tokens=8000, lang=lang, options={"alpha": alpha})
    counts = Counter(sample.context.partition("\n")[2].split()).most_common()
    assert counts[0][0] == "..."
    assert tuple(word for word, _ in counts[1:4]) == sample.asked[0].answers
    if len(counts) > 4:
        assert counts[3][1] > counts[4][1]
    # Rank k stands k^-alpha as often as the first, but for rounding down.
    for rank in (2, 3, 4):
        assert counts[rank - 1][1] == pytest.approx(counts[0][1] * rank**-alpha, abs=1.01)


def test_zeta_closed_forms() -> None:
    assert zeta(2.0) == pytest.approx(3.141592653589793**2 / 6, abs=1e-9)
    assert zeta(4.0) == pytest.approx(3.141592653589793**4 / 90, abs=1e-12)


@LANGUAGES
@pytest.mark.parametrize("seed", SEEDS)
def test_variables(lang: str, seed: int) -> None:
    sample = write_sample("variable_tracing", tokens=3000, lang=lang, seed=seed, questions=3)
    values: dict[str, str] = {}
    # One pass from the beginning: an assignment stands after the one that it refers to.
    for name, source in re.findall(r"(?:VAR|变量) ([A-Z]{5}) = (?:(?:VAR|变量) )?(\w+?)[.。]", sample.context):
        values[name] = source if source.isdigit() else values[source]
    for asked in sample.asked:
        (value,) = re.findall(r"\d{5}", asked.question)
        assert {name for name, own in values.items() if own == value} == set(asked.answers)
        assert len(asked.answers) == 5


@LANGUAGES
@pytest.mark.parametrize("seed", SEEDS)
def test_two_hops(lang: str, seed: int) -> None:
    sample = write_sample("chronicle", tokens=4000, lang=lang, seed=seed, questions=4, options={"kind": "two_hops"})
    teachers = facts(sample.context, "teacher", lang)
    for asked in sample.asked:
        pupil = next(name for name in teachers if name in asked.question)
        told = [text for start, end in asked.spans for text in [sample.context[start:end]]]
        assert ("the teacher of" if lang == "en" else "的老师") in asked.question
        assert any(pupil in sentence and teachers[pupil] in sentence for sentence in told)
        assert any(teachers[pupil] in sentence and asked.answers[0] in sentence for sentence in told)
        assert teachers[pupil] not in asked.question


@LANGUAGES
@pytest.mark.parametrize("seed", SEEDS)
def test_aggregation(lang: str, seed: int) -> None:
    sample = write_sample("chronicle", tokens=6000, lang=lang, seed=seed, questions=3, options={"kind": "aggregation"})
    for asked in sample.asked:
        counts = {
            answer: sum(own == answer for own in known.values())
            for known in (facts(sample.context, relation, lang) for relation in ("birthplace", "trade", "event"))
            for answer in known.values()
            if re.search(rf"\b{answer}\?" if lang == "en" else answer, asked.question)
        }
        ((_, count),) = counts.items()
        assert asked.answers[0] == str(count)
        assert len(asked.spans) == count


@LANGUAGES
@pytest.mark.parametrize("seed", SEEDS)
def test_time_order(lang: str, seed: int) -> None:
    sample = write_sample("chronicle", tokens=4000, lang=lang, seed=seed, questions=4, options={"kind": "time_order"})
    years = facts(sample.context, "birth_year", lang)
    for asked in sample.asked:
        both = {name: year for name, year in years.items() if name in asked.question}
        assert len(both) == 2
        assert asked.answers == (min(both, key=lambda name: both[name]),)


@LANGUAGES
@pytest.mark.parametrize("seed", SEEDS)
def test_unanswerable(lang: str, seed: int) -> None:
    options = {"kind": "unanswerable"}
    sample = write_sample("chronicle", tokens=4000, lang=lang, seed=seed, questions=4, options=options)
    names = r"[A-Z][a-z]+ [A-Z][a-z]+" if lang == "en" else r"[\u4e00-\u9fff]{2}"
    people = {name for relation in RELATIONS for name in facts(sample.context, relation, lang)}
    assert len(people) > 8
    for asked in sample.asked:
        assert not any(person in asked.question for person in people)
        runs = re.findall(f"(?=({names}))", asked.question)
        assert any(run not in sample.context for run in runs)


@LANGUAGES
@pytest.mark.parametrize("seed", SEEDS)
def test_lost_in_the_middle(lang: str, seed: int) -> None:
    options = {"documents": 12}
    sample = write_sample("lost_in_the_middle", tokens=4000, lang=lang, seed=seed, questions=4, options=options)
    documents = sample.context.split("\n\n")
    assert len(documents) == 12
    lengths = [len(document) for document in documents]
    assert max(lengths) < 2 * min(lengths)
    for number, asked in enumerate(sample.asked):
        holding = [k for k, document in enumerate(documents) if asked.answers[0] in document]
        assert holding == [int((number + 0.5) / 4 * 12)]
        assert asked.depth == sample.context.index(documents[holding[0]]) / len(sample.context)
