"""Questions about the chronicle: one fact, a fact about somebody's teacher, a count, who came first, nobody known.

The people and wordings are those of `handscroll.text.chronicle`; a tenth of the sentences state facts about others.
What distinguishes this task from a needle is that facts and fillers look alike and questions share no words with facts.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from handscroll.text.chronicle.document import FILLERS_PER_FACT
from handscroll.text.chronicle.fillers import filler
from handscroll.text.chronicle.names import SPLITS, Names
from handscroll.text.chronicle.relations import RELATIONS, Fact, draw_fact, fact_sentence, question
from handscroll.text.tasks.checks import check_choice
from handscroll.text.tasks.filling import group_places, plant
from handscroll.text.tasks.haystack import JOINTS
from handscroll.text.tasks.task import Asked, Measure, Sample, Task, Wanted

TEACHER_OF = {"en": "the teacher of {name}", "zh": "{name}的老师"}
EARLIER = {"en": "Who was born earlier, {one} or {other}?", "zh": "{one}和{other}，谁出生得更早？"}
COUNTED = {
    "birthplace": {"en": "How many people of the text come from {answer}?", "zh": "文中来自{answer}的一共有几个人？"},
    "trade": {
        "en": "How many people of the text have the trade of {answer}?",
        "zh": "文中以{answer}为业的一共有几个人？",
    },
    "event": {
        "en": "How many people of the text are remembered for {answer}?",
        "zh": "文中因{answer}留名的一共有几个人？",
    },
}
FEWEST, MOST = 2, 6
NUMERALS: dict[str, dict[int, tuple[str, ...]]] = {
    "en": {2: ("2", "two"), 3: ("3", "three"), 4: ("4", "four"), 5: ("5", "five"), 6: ("6", "six")},
    "zh": {2: ("2", "两", "二"), 3: ("3", "三"), 4: ("4", "四"), 5: ("5", "五"), 6: ("6", "六")},
}
# The first is what to answer, the others are ways to say it that a reply may contain.
UNKNOWN = {
    "en": (
        "The text does not say.",
        *(f"{verb} {what}" for verb in ("does not", "doesn't") for what in ("say", "mention", "tell", "state")),
        *("not mentioned", "not stated", "not given", "no information", "no mention", "unknown", "unanswerable"),
    ),
    "zh": (
        "文中没有提到。",
        *(f"{no}{verb}" for no in ("没有", "没", "未") for verb in ("提到", "提及", "说明", "说", "记载", "写")),
        *("无法回答", "无从得知", "不知道", "不得而知", "没有相关信息"),
    ),
}


class Gold(NamedTuple):
    """The facts that answer a question, the first of which stands at the wanted depth."""

    facts: tuple[Fact, ...]
    question: str
    answers: tuple[str, ...]
    wanted: Wanted = "all"


class World:
    """Who is drawn for a context. Nothing and nobody in `reserved` is said of anybody else."""

    def __init__(self, lang: str, split: str, rng: random.Random) -> None:
        self.lang = lang
        self.rng = rng
        self.names = Names(lang, split, rng.getrandbits(32))
        self.people = iter(self.names)
        self.reserved: set[str] = set()

    def fact(self, relation: str, subject: str) -> Fact:
        """A fact whose answer is nobody and nothing reserved."""
        while (fact := draw_fact(relation, subject, self.rng, self.names)).answer in self.reserved:
            pass
        return fact


def _one_hop(world: World) -> Gold:
    fact = world.fact(world.rng.choice(list(RELATIONS)), next(world.people))
    return Gold((fact,), question(fact, world.rng), (fact.answer,))


def _two_hops(world: World) -> Gold:
    pupil, teacher = next(world.people), next(world.people)
    relation = world.rng.choice([relation for relation in RELATIONS if relation != "teacher"])
    told = world.fact(relation, teacher)
    facts = [Fact(world.lang, "teacher", pupil, teacher), told]
    world.rng.shuffle(facts)
    asked = Fact(world.lang, relation, TEACHER_OF[world.lang].format(name=pupil), told.answer)
    return Gold(tuple(facts), question(asked, world.rng), (told.answer,))


def _aggregation(world: World) -> Gold:
    relation = world.rng.choice(list(COUNTED))
    # What is counted is reserved before anybody else is written about.
    answer = world.fact(relation, "").answer
    world.reserved.add(answer)
    count = world.rng.randint(FEWEST, MOST)
    facts = tuple(Fact(world.lang, relation, next(world.people), answer) for _ in range(count))
    asked = COUNTED[relation][world.lang].format(answer=answer)
    return Gold(facts, asked, NUMERALS[world.lang][count], "any")


def _time_order(world: World) -> Gold:
    one = world.fact("birth_year", next(world.people))
    other = one
    subject = next(world.people)
    while other.answer == one.answer:
        other = world.fact("birth_year", subject)
    earlier = min(one, other, key=lambda fact: fact.answer)
    asked = EARLIER[world.lang].format(one=one.subject, other=other.subject)
    facts = [one, other]
    world.rng.shuffle(facts)
    return Gold(tuple(facts), asked, (earlier.subject,))


def _unanswerable(world: World) -> Gold:
    stranger = next(world.people)
    world.reserved.add(stranger)
    asked = world.fact(world.rng.choice(list(RELATIONS)), stranger)
    return Gold((), question(asked, world.rng), UNKNOWN[world.lang], "any")


KINDS: dict[str, Callable[[World], Gold]] = {
    "one_hop": _one_hop,
    "two_hops": _two_hops,
    "aggregation": _aggregation,
    "time_order": _time_order,
    "unanswerable": _unanswerable,
}
# What is counted is nobody else's, and the smallest pool of answers must still have some for the others.
MOST_COUNTED = 30


@dataclass(frozen=True)
class ChronicleOptions:
    """kind: what is asked. split: whose names; a model is trained on "train" and measured on "read"."""

    kind: str = "one_hop"
    split: str = "read"

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_choice("split", self.split, SPLITS)


def write(
    rng: random.Random, tokens: int, lang: str, measure: Measure, questions: int, options: ChronicleOptions
) -> Sample:
    """The facts of every question, the first of each at even depths, in a text about other people."""
    if options.kind == "aggregation" and questions > MOST_COUNTED:
        raise ValueError(f"{questions} counts are asked of one text; ask at most {MOST_COUNTED}")
    world = World(lang, options.split, rng)
    golds = [KINDS[options.kind](world) for _ in range(questions)]
    sentences = [fact_sentence(fact, rng) for gold in golds for fact in gold.facts]
    laid = plant(
        _others(world),
        sentences,
        [place for group in group_places([len(gold.facts) for gold in golds], rng) for place in group],
        tokens=tokens,
        measure=measure,
        joint=JOINTS[lang],
    )
    placed = iter(zip(laid.starts, sentences, strict=True))
    asked = []
    for gold in golds:
        spans = tuple((start, start + len(sentence)) for start, sentence in islice(placed, len(gold.facts)))
        depth = spans[0][0] / len(laid.text) if spans else None
        asked.append(Asked(gold.question, gold.answers, gold.wanted, spans, depth))
    return Sample(laid.text, tuple(asked), lang)


def _others(world: World) -> Iterator[str]:
    """Sentences without end: one to three facts a person, each somewhere among nine fillers."""
    rng = world.rng
    for person in world.people:
        for relation in rng.sample(list(RELATIONS), rng.randint(1, 3)):
            sentences = [filler(world.lang, rng) for _ in range(FILLERS_PER_FACT)]
            sentences.insert(rng.randint(0, FILLERS_PER_FACT), fact_sentence(world.fact(relation, person), rng))
            yield from sentences


CHRONICLE = Task("chronicle", ChronicleOptions, write)
