"""Long-context tasks: contexts of any length in English and Chinese, and questions whose right answers are known.

What it is for
    task.py            the contract: `Task`, `Sample`, `Asked`
    passkey.py         passkey, number: digits in noise
    key_value.py       kv: one of as many pairs as fit
    needle.py          needle: single, multi-key, multi-value and multi-query, in four haystacks
    variables.py       variable_tracing: chains of assignments
    words.py           common_words, frequent_words: what a whole text says most often
    chronicle_qa.py    chronicle: one hop, two hops, aggregation, time order, unanswerable
    documents.py       lost_in_the_middle: one of N documents answers
    question_files.py  qa: the user's own questions in the SQuAD format
    ruler.py           RULER's thirteen tasks by name, with its parameters
    scoring.py         replies scored as RULER does, or exactly
    export.py          samples as chat rows, to train on
    filling.py, haystack.py, vocabulary.py, checks.py    what they share

What it promises
    - A context has 95 to 100 % of the tokens asked for, by the caller's tokenizer, or as many as whole pieces allow.
    - The same name, options, seed, tokens, language and tokenizer give the same sample in any process.
    - `context[start:end]` of a span is the sentence, pair or paragraph that states (a part of) the answer.
    - One context carries several questions, at even depths, since reading costs more than asking.

A further task is one file and one line in `TASKS`; the contract test runs over every entry:

    @dataclass(frozen=True)
    class CountOptions:
        upto: int = 9

    def write(rng, tokens, lang, measure, questions, options):
        ...
        return Sample(context, (Asked(question, answers),), lang)

    COUNT = Task("count", CountOptions, write)
"""

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

from handscroll.text.chronicle.document import estimate_tokens
from handscroll.text.tasks.chronicle_qa import CHRONICLE
from handscroll.text.tasks.documents import LOST_IN_THE_MIDDLE
from handscroll.text.tasks.key_value import KEY_VALUE
from handscroll.text.tasks.needle import NEEDLE_TASK
from handscroll.text.tasks.passkey import NUMBER, PASSKEY
from handscroll.text.tasks.question_files import QUESTION_FILES
from handscroll.text.tasks.ruler import RULER
from handscroll.text.tasks.scoring import exact, score, string_match_all, string_match_part
from handscroll.text.tasks.task import Asked, Measure, Sample, Task
from handscroll.text.tasks.variables import VARIABLE_TRACING
from handscroll.text.tasks.words import COMMON_WORDS, FREQUENT_WORDS

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        PASSKEY,
        NUMBER,
        KEY_VALUE,
        NEEDLE_TASK,
        VARIABLE_TRACING,
        COMMON_WORDS,
        FREQUENT_WORDS,
        CHRONICLE,
        LOST_IN_THE_MIDDLE,
        QUESTION_FILES,
    )
}


def find_task(name: str, options: Mapping[str, Any] | None = None) -> tuple[Task, Any]:
    """A task of `TASKS`, or of RULER by its name there, with its options, some of them changed.

    Where an option takes several files, one path or a list of them will do. ValueError names what is unknown.
    """
    if name in RULER:
        kind, defaults = RULER[name]
        task = TASKS[kind]
    elif name in TASKS:
        task = TASKS[name]
        defaults = task.options()
    else:
        raise ValueError(f"unknown task {name!r}: known are {', '.join(TASKS)}; and of RULER {', '.join(RULER)}")
    known = [field.name for field in dataclasses.fields(task.options)]
    changes = dict(options or {})
    for option, value in changes.items():
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}: known are {', '.join(known)}")
        if isinstance(getattr(defaults, option), tuple):
            changes[option] = (value,) if isinstance(value, str) else tuple(value)
    return task, dataclasses.replace(defaults, **changes)


def write_sample(
    name: str,
    *,
    tokens: int,
    lang: str,
    seed: int | str = 0,
    measure: Measure = estimate_tokens,
    questions: int = 1,
    options: Mapping[str, Any] | None = None,
) -> Sample:
    """One sample of a task by name; another seed gives another. By default tokens are estimated from the characters."""
    task, chosen = find_task(name, options)
    if lang not in task.languages:
        raise ValueError(f"language is {lang!r}; {name} is written in {', '.join(task.languages)}")
    if tokens < 1 or questions < 1:
        raise ValueError(f"{tokens} tokens and {questions} questions are asked for; there must be at least one of each")
    return task.write(random.Random(f"{name}/{lang}/{tokens}/{seed}"), tokens, lang, measure, questions, chosen)


__all__ = [
    "RULER",
    "TASKS",
    "Asked",
    "Measure",
    "Sample",
    "Task",
    "exact",
    "find_task",
    "score",
    "string_match_all",
    "string_match_part",
    "write_sample",
]
