"""Needles in a haystack as in RULER (https://arxiv.org/abs/2404.06654): one, among others, of several values, several.

A needle states one value of a key. `keys` are the keys that there are besides others asked for, `values` how many each
has, and `queries` how many a question asks for at once. The wording of needle and question is RULER's format.
"""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from handscroll.text.tasks.checks import check_choice, check_count, check_files
from handscroll.text.tasks.filling import group_places, plant
from handscroll.text.tasks.haystack import HAYSTACKS, JOINTS, hay
from handscroll.text.tasks.restating import restate
from handscroll.text.tasks.task import Asked, Measure, Sample, Task
from handscroll.text.tasks.vocabulary import KINDS, Words, distinct, word_pool

KINDS_EN = {"words": "words", "numbers": "numbers", "hex": "hashes", "uuids": "uuids"}
KINDS_ZH = {"words": "词语", "numbers": "数字", "hex": "哈希值", "uuids": "UUID"}
NOUNS = {"en": KINDS_EN, "zh": KINDS_ZH}
NEEDLE = {
    "en": "One of the special magic {kinds} for {key} is: {value}.",
    "zh": "{key}的一个特殊魔法{kinds}是：{value}。",
}
OPENING = {
    "en": "Special magic {kinds} are hidden within the following text. Make sure to memorize them.\n",
    "zh": "下面的文字里藏着一些特殊魔法{kinds}，请务必记住。\n",
}
ONE = {
    "en": "What is the special magic {kind} for {keys} mentioned in the provided text?",
    "zh": "文中提到的{keys}的特殊魔法{kind}是什么？",
}
ALL = {
    "en": "What are all the special magic {kind} for {keys} mentioned in the provided text?",
    "zh": "文中提到的{keys}的所有特殊魔法{kind}是什么？",
}


@dataclass(frozen=True)
class NeedleOptions:
    """RULER's parameters by shorter names.

    keys: different keys in the text; at least as many as are asked for. values: of each key. queries: keys a question.
    pool: words are made of so many adjectives and nouns, numbers of so many groups of three digits and a last one, so
    that most are alike; 0: of all.
    haystack: "noise", "chronicle", "essay" (texts named in `haystack_files`), or "needles", which is made of others.
    """

    haystack: str = "noise"
    key: str = "words"
    value: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1
    haystack_files: tuple[str, ...] = ()
    pool: int = 0

    def __post_init__(self) -> None:
        check_choice("haystack", self.haystack, (*HAYSTACKS, "needles"))
        check_choice("key", self.key, KINDS)
        check_choice("value", self.value, KINDS)
        for name in ("keys", "values", "queries"):
            check_count(name, getattr(self, name), 1)
        check_count("pool", self.pool, 0)
        check_files("haystack_files", self.haystack_files)


def write(
    rng: random.Random, tokens: int, lang: str, measure: Measure, questions: int, options: NeedleOptions
) -> Sample:
    """A group of needles a question, and the needles of the keys that are asked for by none."""
    kinds = NOUNS[lang][options.value]
    per_question = options.queries * options.values
    among = word_pool(lang, rng, options.pool)
    keys, values = distinct(options.key, lang, rng, among=among), distinct(options.value, lang, rng, among=among)
    asked_keys = [[next(keys) for _ in range(options.queries)] for _ in range(questions)]
    others = [next(keys) for _ in range(options.keys - questions * options.queries)]
    groups = [[(key, next(values)) for key in group for _ in range(options.values)] for group in asked_keys]
    strays = [(key, next(values)) for key in others for _ in range(options.values)]
    pairs = [pair for group in groups for pair in group] + strays
    places = [place for group in group_places([per_question] * questions, rng) for place in group]
    places += [rng.random() for _ in strays]
    taken = {word for pair in pairs for word in pair}
    gold = [NEEDLE[lang].format(kinds=kinds, key=key, value=value) for key, value in pairs]
    laid = plant(
        _needles(rng, lang, options, taken, among)
        if options.haystack == "needles"
        else hay(options.haystack, lang, rng, options.haystack_files, taken),
        gold,
        places,
        tokens=tokens,
        measure=measure,
        joint="\n" if options.haystack == "needles" else JOINTS[lang],
        before=OPENING[lang].format(kinds=kinds),
    )
    asked = []
    for number, group in enumerate(groups):
        mine = range(number * per_question, (number + 1) * per_question)
        spans = tuple((laid.starts[index], laid.starts[index] + len(gold[index])) for index in mine)
        depth = min(spans)[0] / len(laid.text)
        question = _question(lang, options, asked_keys[number])
        answers = tuple(value for _, value in group)
        stated = [(sentence, key) for sentence, (key, _) in zip((gold[index] for index in mine), group, strict=True)]
        asked.append(Asked(question, answers, "all", spans, depth, restate(lang, stated, question)))
    return Sample(laid.text, tuple(asked), lang)


def _needles(
    rng: random.Random, lang: str, options: NeedleOptions, taken: Collection[str], among: Words
) -> Iterator[str]:
    keys, values = distinct(options.key, lang, rng, taken, among), distinct(options.value, lang, rng, taken, among)
    for key, value in zip(keys, values, strict=True):
        yield NEEDLE[lang].format(kinds=NOUNS[lang][options.value], key=key, value=value)


def _question(lang: str, options: NeedleOptions, keys: list[str]) -> str:
    kind = NOUNS[lang][options.value]
    if options.queries * options.values == 1:
        singular = {"hashes": "hash"}.get(kind, kind.removesuffix("s"))
        return ONE[lang].format(kind=singular, keys=keys[0])
    if lang == "zh":
        listed = "和".join(filter(None, ("、".join(keys[:-1]), keys[-1])))
    else:
        listed = ", and ".join(filter(None, (", ".join(keys[:-1]), keys[-1])))
    return ALL[lang].format(kind=kind, keys=listed)


NEEDLE_TASK = Task("needle", NeedleOptions, write)
