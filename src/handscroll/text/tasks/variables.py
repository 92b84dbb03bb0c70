"""Variable tracing as in RULER (https://arxiv.org/abs/2404.06654): chains of assignments, hidden in a haystack.

The first variable of a chain is given a number, each other one the variable before it; all that hold the number are
asked for. Assignments stand in their order.
"""

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from handscroll.text.tasks.checks import check_choice, check_count, check_files
from handscroll.text.tasks.filling import group_places, plant
from handscroll.text.tasks.haystack import HAYSTACKS, JOINTS, hay
from handscroll.text.tasks.task import Asked, Measure, Sample, Task
from handscroll.text.tasks.vocabulary import number

NAME_LETTERS = 5
VALUE_DIGITS = 5
OPENING = {
    "en": "Memorize and track the chains of variable assignment hidden in the following text.\n",
    "zh": "请记住并追踪下面文字中隐藏的变量赋值链。\n",
}
FIRST = {"en": "VAR {name} = {value}.", "zh": "变量 {name} = {value}。"}
NEXT = {"en": "VAR {name} = VAR {source}.", "zh": "变量 {name} = 变量 {source}。"}
QUESTION = {
    "en": "Find all variables that are assigned the value {value} in the text above.",
    "zh": "上文中哪些变量的值是 {value}？请全部列出。",
}


@dataclass(frozen=True)
class VariableOptions:
    """chains: how many there are, at least one a question. hops: assignments after a chain's first."""

    chains: int = 1
    hops: int = 4
    haystack: str = "noise"
    haystack_files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_count("chains", self.chains, 1)
        check_count("hops", self.hops, 1)
        check_choice("haystack", self.haystack, HAYSTACKS)
        check_files("haystack_files", self.haystack_files)


def write(
    rng: random.Random, tokens: int, lang: str, measure: Measure, questions: int, options: VariableOptions
) -> Sample:
    """A chain a question, and those that nobody asks for."""
    chains = max(questions, options.chains)
    names = _different(
        lambda: "".join(rng.choices(string.ascii_uppercase, k=NAME_LETTERS)), chains * (options.hops + 1)
    )
    values = _different(lambda: number(VALUE_DIGITS, rng), chains)
    step = options.hops + 1
    variables = [names[chain * step : (chain + 1) * step] for chain in range(chains)]
    gold: list[str] = []
    for own, value in zip(variables, values, strict=True):
        gold.append(FIRST[lang].format(name=own[0], value=value))
        gold.extend(NEXT[lang].format(name=name, source=source) for source, name in pairwise(own))
    laid = plant(
        hay(options.haystack, lang, rng, options.haystack_files, (*names, *values)),
        gold,
        [place for group in group_places([step] * chains, rng) for place in group],
        tokens=tokens,
        measure=measure,
        joint=JOINTS[lang],
        before=OPENING[lang],
    )
    asked = []
    # Evenly among the chains, so that questions are spread over the depth also where there are more chains.
    for chain in (int((n + 0.5) / questions * chains) for n in range(questions)):
        mine = range(chain * step, (chain + 1) * step)
        spans = tuple((laid.starts[index], laid.starts[index] + len(gold[index])) for index in mine)
        question = QUESTION[lang].format(value=values[chain])
        asked.append(Asked(question, tuple(variables[chain]), "all", spans, spans[0][0] / len(laid.text)))
    return Sample(laid.text, tuple(asked), lang)


def _different(draw: Callable[[], str], count: int) -> list[str]:
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[draw()] = None
    return list(drawn)


VARIABLE_TRACING = Task("variable_tracing", VariableOptions, write)
