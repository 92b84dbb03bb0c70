"""Passkey and number retrieval: digits stated once in noise.

Passkey: Landmark Attention (https://arxiv.org/abs/2305.16300). Number: InfiniteBench
(https://arxiv.org/abs/2402.13718), ten digits with runs of equal ones. Asked for more than once, a context holds as
many keys, each of a gate with a name, at even depths; InfLLM (https://arxiv.org/abs/2402.04617) asks for one.
"""

import random
from dataclasses import dataclass

from handscroll.text.tasks.checks import check_count
from handscroll.text.tasks.filling import even_places, plant
from handscroll.text.tasks.haystack import JOINTS, hay
from handscroll.text.tasks.task import Asked, Measure, Sample, Task
from handscroll.text.tasks.vocabulary import distinct, number

OPENING = {
    "en": "There is important information hidden in a lot of irrelevant text. Find it and memorize it.\n",
    "zh": "下面一大段无关的文字里藏着重要的信息，请找到并记住。\n",
}
ONE = {
    "pass key": {
        "en": ("The pass key is {value}. Remember it. {value} is the pass key.", "What is the pass key?"),
        "zh": ("通行密钥是{value}。请记住它。{value}就是通行密钥。", "通行密钥是多少？"),
    },
    "number": {
        "en": (
            "The sequence of digits is {value}. Remember it. {value} is the sequence of digits.",
            "What is the sequence of digits?",
        ),
        "zh": ("那串数字是{value}。请记住它。{value}就是那串数字。", "那串数字是什么？"),
    },
}
MANY = {
    "pass key": {
        "en": ("The pass key of the {name} gate is {value}. Remember it.", "What is the pass key of the {name} gate?"),
        "zh": ("{name}门的通行密钥是{value}。请记住它。", "{name}门的通行密钥是多少？"),
    },
    "number": {
        "en": (
            "The sequence of digits of the {name} gate is {value}. Remember it.",
            "What is the sequence of digits of the {name} gate?",
        ),
        "zh": ("{name}门的那串数字是{value}。请记住它。", "{name}门的那串数字是什么？"),
    },
}


@dataclass(frozen=True)
class PasskeyOptions:
    """digits: how long a pass key is."""

    digits: int = 5

    def __post_init__(self) -> None:
        check_count("digits", self.digits, 3)


@dataclass(frozen=True)
class NumberOptions:
    """digits: how long the number is; about every second one repeats the one before it."""

    digits: int = 10

    def __post_init__(self) -> None:
        check_count("digits", self.digits, 4)


def write_passkey(
    rng: random.Random, tokens: int, lang: str, measure: Measure, questions: int, options: PasskeyOptions
) -> Sample:
    """Keys of the passkey task."""
    values: dict[str, None] = {}
    if questions > 9 * 10 ** (options.digits - 2):
        raise ValueError(f"{questions} different keys of {options.digits} digits are asked for; give more digits")
    while len(values) < questions:
        values[number(options.digits, rng)] = None
    return _write(rng, tokens, lang, measure, "pass key", tuple(values))


def write_number(
    rng: random.Random, tokens: int, lang: str, measure: Measure, questions: int, options: NumberOptions
) -> Sample:
    """Numbers of the number task."""
    values: dict[str, None] = {}
    if questions > 2**options.digits:
        raise ValueError(f"{questions} different numbers of {options.digits} digits are asked for; give more digits")
    while len(values) < questions:
        digits = number(1, rng).replace("0", "9")
        while len(digits) < options.digits:
            digits += digits[-1] if rng.random() < 0.5 else str(rng.randrange(10))
        values[digits] = None
    return _write(rng, tokens, lang, measure, "number", tuple(values))


def _write(rng: random.Random, tokens: int, lang: str, measure: Measure, what: str, values: tuple[str, ...]) -> Sample:
    statement, question = (ONE if len(values) == 1 else MANY)[what][lang]
    names = distinct("words", lang, rng)
    gates = [next(names) for _ in values]
    gold = [statement.format(name=gate, value=value) for gate, value in zip(gates, values, strict=True)]
    laid = plant(
        hay("noise", lang, rng),
        gold,
        even_places(len(gold), rng),
        tokens=tokens,
        measure=measure,
        joint=JOINTS[lang],
        before=OPENING[lang],
    )
    asked = tuple(
        Asked(question.format(name=gate), (value,), "all", ((start, start + len(sentence)),), start / len(laid.text))
        for gate, value, sentence, start in zip(gates, values, gold, laid.starts, strict=True)
    )
    return Sample(laid.text, asked, lang)


PASSKEY = Task("passkey", PasskeyOptions, write_passkey)
NUMBER = Task("number", NumberOptions, write_number)
