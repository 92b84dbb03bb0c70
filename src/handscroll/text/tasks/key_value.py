"""Key-value retrieval: one of as many similar pairs as fit.

The form is that of Lost in the Middle (https://arxiv.org/abs/2307.03172), one JSON object whose keys and values are
random, which InfiniteBench and InfLLM ask for as R.KV; or a sentence a pair.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from handscroll.text.tasks.checks import check_choice
from handscroll.text.tasks.filling import Pieces, even_places, fit
from handscroll.text.tasks.task import Asked, Measure, Sample, Task
from handscroll.text.tasks.vocabulary import KINDS, distinct

FORMS = ("json", "sentence")
OPENING = {
    "en": {"json": "Extract a value from this JSON object.\n", "sentence": "Remember the value of every key.\n"},
    "zh": {"json": "请从下面的JSON对象中提取一个值。\n", "sentence": "请记住每个键的值。\n"},
}
PAIR = {"en": "The value of {key} is {value}.", "zh": "{key}的值是{value}。"}
QUESTION = {"en": "What is the value of {key}?", "zh": "{key}的值是什么？"}


@dataclass(frozen=True)
class KeyValueOptions:
    """form: one JSON object, or a sentence a pair. keys, values: what they are made of."""

    form: str = "json"
    keys: str = "uuids"
    values: str = "uuids"

    def __post_init__(self) -> None:
        check_choice("form", self.form, FORMS)
        check_choice("keys", self.keys, KINDS)
        check_choice("values", self.values, KINDS)


def write(
    rng: random.Random, tokens: int, lang: str, measure: Measure, questions: int, options: KeyValueOptions
) -> Sample:
    """Pairs until the context is full; those that are asked for stand at even depths."""
    opening = OPENING[lang][options.form]
    before, joint, after = (opening + "{", ", ", "}") if options.form == "json" else (opening, "\n", "")
    pieces = Pieces(_pairs(rng, lang, options))

    def context(count: int) -> str:
        return before + joint.join(text for _, _, text in pieces.first(count)) + after

    pairs = pieces.first(fit(context, tokens, measure, least=questions))
    text = context(len(pairs))
    lengths = (len(pair) + len(joint) for _, _, pair in pairs[:-1])
    starts = list(accumulate(lengths, initial=len(before)))
    asked = []
    for place in even_places(questions, rng):
        index = int(place * len(pairs))
        (key, value, pair), start = pairs[index], starts[index]
        spans = ((start, start + len(pair)),)
        asked.append(Asked(QUESTION[lang].format(key=key), (value,), "all", spans, start / len(text)))
    return Sample(text, tuple(asked), lang)


def _pairs(rng: random.Random, lang: str, options: KeyValueOptions) -> Iterator[tuple[str, str, str]]:
    keys, values = distinct(options.keys, lang, rng), distinct(options.values, lang, rng)
    for key, value in zip(keys, values, strict=True):
        text = f'"{key}": "{value}"' if options.form == "json" else PAIR[lang].format(key=key, value=value)
        yield key, value, text


KEY_VALUE = Task("kv", KeyValueOptions, write)
