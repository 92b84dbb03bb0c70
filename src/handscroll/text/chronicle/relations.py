"""What can be said of a person: each relation with its wordings and its answers, and facts drawn from them.

Leaves to others the wordings themselves (`wordings.py`), who the people are (`names.py`) and where sentences stand
(`document.py`).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from handscroll.text.chronicle.answers import EVENTS, STREETS, TOWNS, TRADES, draw_year
from handscroll.text.chronicle.names import Names
from handscroll.text.chronicle.wordings import (
    BIRTH_YEAR_EN,
    BIRTH_YEAR_ZH,
    BIRTHPLACE_EN,
    BIRTHPLACE_ZH,
    EVENT_EN,
    EVENT_ZH,
    HOME_EN,
    HOME_ZH,
    TEACHER_EN,
    TEACHER_ZH,
    TRADE_EN,
    TRADE_ZH,
    Wording,
)


@dataclass(frozen=True)
class Relation:
    """Wordings by language, and one of: `pool`, the possible answers by language; `draw`, which makes one."""

    wordings: dict[str, Wording]
    pool: dict[str, tuple[str, ...]] | None = None
    draw: Callable[[str, random.Random, Names], str] | None = None


@dataclass(frozen=True)
class Fact:
    """One thing that is true in a chronicle."""

    lang: str
    relation: str
    subject: str
    answer: str


class Statement(NamedTuple):
    """A sentence that states a fact, and the character at which the answer begins."""

    sentence: str
    answer_start: int


def _year(lang: str, rng: random.Random, names: Names) -> str:
    return draw_year(lang, rng)


def _teacher(lang: str, rng: random.Random, names: Names) -> str:
    return names.draw(rng)


RELATIONS: dict[str, Relation] = {
    "birthplace": Relation({"en": BIRTHPLACE_EN, "zh": BIRTHPLACE_ZH}, pool=TOWNS),
    "home": Relation({"en": HOME_EN, "zh": HOME_ZH}, pool=STREETS),
    "trade": Relation({"en": TRADE_EN, "zh": TRADE_ZH}, pool=TRADES),
    "birth_year": Relation({"en": BIRTH_YEAR_EN, "zh": BIRTH_YEAR_ZH}, draw=_year),
    "teacher": Relation({"en": TEACHER_EN, "zh": TEACHER_ZH}, draw=_teacher),
    "event": Relation({"en": EVENT_EN, "zh": EVENT_ZH}, pool=EVENTS),
}


def wording(relation: str, lang: str) -> Wording:
    """The wordings of one relation in one language."""
    if relation not in RELATIONS:
        raise ValueError(f"relation is {relation!r}; the chronicle knows {', '.join(RELATIONS)}")
    wordings = RELATIONS[relation].wordings
    if lang not in wordings:
        raise ValueError(f"language is {lang!r}; {relation} is worded in {', '.join(wordings)}")
    return wordings[lang]


def draw_answer(relation: str, lang: str, rng: random.Random, names: Names) -> str:
    """A possible answer; teachers are drawn from `names`."""
    wording(relation, lang)
    entry = RELATIONS[relation]
    if entry.pool is not None:
        pool = entry.pool[lang]
        return pool[int(rng.random() * len(pool))]
    assert entry.draw is not None
    return entry.draw(lang, rng, names)


def undivided(lang: str) -> list[str]:
    """Answers that a tokenizer of single Han characters should keep whole, as words between spaces are.

    Of an answer in two pieces a small reader takes the second piece from somewhere else now and then.
    """
    pools = [entry.pool[lang] for entry in RELATIONS.values() if entry.pool is not None]
    return [answer for pool in pools for answer in pool] if lang == "zh" else []


def draw_fact(relation: str, subject: str, rng: random.Random, names: Names) -> Fact:
    """A fact about `subject`, who never teaches themselves."""
    while (answer := draw_answer(relation, names.lang, rng, names)) == subject:
        pass
    return Fact(names.lang, relation, subject, answer)


def state(fact: Fact, rng: random.Random) -> Statement:
    """The fact in one of its wordings."""
    facts = wording(fact.relation, fact.lang).facts
    before, after = facts[int(rng.random() * len(facts))].split("{answer}")
    before = before.replace("{name}", fact.subject)
    return Statement(before + fact.answer + after.replace("{name}", fact.subject), len(before))


def fact_sentence(fact: Fact, rng: random.Random) -> str:
    """The sentence of `state` alone."""
    return state(fact, rng).sentence


def question(fact: Fact, rng: random.Random) -> str:
    """A question that the fact answers."""
    questions = wording(fact.relation, fact.lang).questions
    return questions[int(rng.random() * len(questions))].replace("{name}", fact.subject)


def answer_sentence(fact: Fact) -> str:
    """The one answer, which restates relation and subject."""
    template = wording(fact.relation, fact.lang).answer
    return template.replace("{name}", fact.subject).replace("{answer}", fact.answer)
