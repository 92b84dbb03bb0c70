"""Suites upon the tasks of `text/tasks/`: a context is read under each policy, questions are asked, replies scored.

Knows how a sample is read and how its questions are put. Leaves to others what a task asks and which replies are
right (`text/tasks/`), and how forks of a cache reply (`asking.py`).

The context is read as the plain tokens of a document. With `prompt: after` it is read once, and every question is a
user's turn that follows it in a fork of the cache. With `prompt: with` context and question are one prompt that is read
anew for every question, as policies need it that choose what to keep by the last tokens of a prompt. `opened` begins
the reply for the model, as RULER does: with what the answer's sentence says before the answer.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from handscroll.generation import generate, read
from handscroll.kvcache import Policy, breaks_for
from handscroll.measure.asking import prompt_ids, replies
from handscroll.measure.attended import attended_keys
from handscroll.measure.policies import FULL_LIMIT, require_full
from handscroll.measure.reading import timed
from handscroll.measure.suites.depths import by_depth
from handscroll.measure.suites.record import Measured, Record, record_table
from handscroll.measure.suites.source import check_languages
from handscroll.measure.suites.suite import Part, Subject, Suite, Work, over_limit
from handscroll.measure.table import Table
from handscroll.model import Cache
from handscroll.text import Tokenizer
from handscroll.text.chronicle import LANGUAGES
from handscroll.text.tasks import Asked, Sample, Task, find_task, score

PROMPTS = ("after", "with")


@dataclass(frozen=True)
class TaskOptions:
    """`samples` contexts of at most `tokens` tokens for each task and language, `questions` about each of them.

    `opened` replies begin with the words before the answer, of tasks that have such; what counts is what comes then.
    `full` reads nothing that is longer than `full_limit`. A reply has at most `max_new_tokens` tokens. Needles of the
    tasks that want essays are hidden in `haystack_files`; `question_files` are in the SQuAD format.
    """

    tokens: int = 4096
    languages: tuple[str, ...] = LANGUAGES
    seed: int = 0
    samples: int = 1
    questions: int = 10
    prompt: str = "after"
    opened: bool = False
    full_limit: int = FULL_LIMIT
    max_new_tokens: int = 128
    haystack_files: tuple[str, ...] = ()
    question_files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.prompt not in PROMPTS:
            raise ValueError(f"prompt={self.prompt!r}: questions are put {' or '.join(PROMPTS)} the context")
        for name in ("tokens", "samples", "questions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1")
        for name in ("haystack_files", "question_files"):
            if isinstance(given := getattr(self, name), str):
                raise ValueError(f"{name}={given!r}: give a list of files, such as [{given}]")
        check_languages(self.languages)


@dataclass(frozen=True)
class Written:
    """A sample and its context's tokens."""

    sample: Sample
    ids: list[int]


@dataclass(frozen=True)
class Material:
    """What is read and asked; `missing` says why there is nothing."""

    written: tuple[Written, ...] = ()
    missing: str = ""


class Answered(NamedTuple):
    """A question and its reply. `depth`: where the gold begins, from 0 to 1."""

    asked: Asked
    reply: str
    depth: float | None

    @property
    def score(self) -> float:
        """The share of the wanted answers that the reply has."""
        return score(self.reply, self.asked)


@dataclass
class Taken:
    """What reading and answering took so far; `attended` is counted behind the first text alone.

    `done` of `total` tokens have been read.
    """

    total: int
    done: int = 0
    readings: int = 0
    tokens: int = 0
    read_seconds: float = 0.0
    answer_seconds: float = 0.0
    device_bytes: int = 0
    host_bytes: int = 0
    attended: int = 0
    answered: list[Answered] = field(default_factory=list)


def write(task: Task, options: Any, tokenizer: Tokenizer, part: Part, how: TaskOptions) -> Material:
    """The samples of a part, the same for the same seed, whoever reads them."""
    opening = tokenizer.opening_ids

    def measure(text: str, /) -> int:
        return len(opening) + len(tokenizer.encode(text))

    written = []
    for number in range(how.samples):
        rng = random.Random(f"{part.task}/{part.lang}/{how.tokens}/{how.seed}/{number}")
        try:
            sample = task.write(rng, how.tokens, part.lang, measure, how.questions, options)
        # A task whose files are not there, or that doesn't fit into so few tokens, leaves the others of a table alone.
        except (FileNotFoundError, ValueError) as error:
            return Material(missing=f"not available: {error}")
        written.append(Written(sample, [*opening, *tokenizer.encode(sample.context)]))
    return Material(tuple(written))


def measure(subject: Subject, policy: Policy, material: Material, options: TaskOptions) -> Iterator[Work | Measured]:
    missing = material.missing or over_limit(policy, options)
    if missing:
        yield Measured(missing=missing)
        return
    is_after = options.prompt == "after"
    run = _after if is_after else _with
    taken = Taken(sum(len(each.ids) * (1 if is_after else len(each.sample.asked)) for each in material.written))
    for written in material.written:
        require_full(subject.model, policy, len(written.ids))
        yield from run(subject, policy, written, options, taken)
    yield _found(taken)


def _after(subject: Subject, policy: Policy, written: Written, options: TaskOptions, taken: Taken) -> Iterator[Work]:
    model, asked = subject.model, written.sample.asked
    cache = policy.start(model.config, model.position, 1)
    breaks = breaks_for(policy, subject.tokenizer)
    for seconds, progress in timed(read(model, [written.ids], cache, only_last=True, breaks=breaks), model.device):
        taken.read_seconds += seconds
        yield Work("reading", taken.done + progress.tokens, taken.total)
    taken.done += len(written.ids)
    _weigh(subject, cache, written.ids, taken)
    questions = [each.question for each in asked]
    openings = [_opening(each, options) for each in asked]
    answers = replies(
        model, subject.tokenizer, cache, questions, openings=openings, max_new_tokens=options.max_new_tokens
    )
    for each, (seconds, reply) in zip(asked, timed(answers, model.device), strict=True):
        taken.answer_seconds += seconds
        taken.answered.append(Answered(each, reply.text, _depth(each, written.sample)))
        yield Work("asking", len(taken.answered), options.samples * len(asked), "questions")


def _with(subject: Subject, policy: Policy, written: Written, options: TaskOptions, taken: Taken) -> Iterator[Work]:
    model, tokenizer = subject.model, subject.tokenizer
    breaks = breaks_for(policy, tokenizer)
    how: dict[str, Any] = {"max_new_tokens": options.max_new_tokens, "stop_ids": tokenizer.stop_ids, "breaks": breaks}
    for each in written.sample.asked:
        prompt = [*written.ids, *prompt_ids(tokenizer, each.question, _opening(each, options))]
        cache = policy.start(model.config, model.position, 1)
        reply: list[int] = []
        emitted = generate(model, [prompt], cache, **how)
        # The first token comes once the whole prompt is read.
        for place, (seconds, one) in enumerate(timed(emitted, model.device)):
            if place == 0:
                taken.read_seconds += seconds
            else:
                taken.answer_seconds += seconds
            if one.token not in tokenizer.stop_ids:
                reply.append(one.token)
        _weigh(subject, cache, [*prompt, *reply][: cache.lengths[0]], taken)
        text = tokenizer.decode(reply, skip_special=True).strip()
        taken.answered.append(Answered(each, text, _depth(each, written.sample)))
        taken.done += len(written.ids)
        yield Work("reading", taken.done, taken.total)


def _opening(asked: Asked, options: TaskOptions) -> str:
    return asked.opening if options.opened else ""


def _weigh(subject: Subject, cache: Cache, ids: Sequence[int], taken: Taken) -> None:
    held = cache.bytes()
    if not taken.readings:
        taken.attended = attended_keys(subject.model, cache, ids)
    taken.readings += 1
    taken.tokens = max(taken.tokens, len(ids))
    taken.device_bytes = max(taken.device_bytes, held.device)
    taken.host_bytes = max(taken.host_bytes, held.host)


def _depth(asked: Asked, sample: Sample) -> float | None:
    if asked.depth is None and asked.spans:
        return min(start for start, _ in asked.spans) / len(sample.context)
    return asked.depth


def _found(taken: Taken) -> Measured:
    scores = [each.score for each in taken.answered]
    return Measured(
        {"score": sum(scores) / len(scores)},
        tokens=taken.tokens,
        asked=len(scores),
        readings=taken.readings,
        read_seconds=taken.read_seconds,
        answer_seconds=taken.answer_seconds,
        device_bytes=taken.device_bytes,
        host_bytes=taken.host_bytes,
        attended=taken.attended,
        detail={
            "by_depth": by_depth((each.depth, each.score) for each in taken.answered),
            "replies": [
                {"question": each.asked.question, "answers": list(each.asked.answers), "reply": each.reply}
                | {"depth": each.depth, "score": each.score}
                for each in taken.answered
            ],
        },
    )


def task_suite(name: str, rows: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Suite:
    """A suite of tasks: each row of its table is a task by name, with those of its options that are changed."""
    tasks = {row: find_task(task, changes) for row, (task, changes) in rows.items()}

    def parts(options: TaskOptions) -> list[Part]:
        return [
            Part(row, lang) for row, (task, _) in tasks.items() for lang in options.languages if lang in task.languages
        ]

    def prepare(subject: Subject, part: Part, options: TaskOptions) -> Material:
        task, chosen = tasks[part.task]
        files = {"haystack_files": tuple(options.haystack_files), "files": tuple(options.question_files)}
        known = {each.name for each in dataclasses.fields(task.options)}
        chosen = dataclasses.replace(chosen, **{each: names for each, names in files.items() if each in known})
        return write(task, chosen, subject.tokenizer, part, options)

    def table(records: Sequence[Record]) -> Table:
        return record_table(f"Scores: {name}", records, ("score",), ("score",))

    return Suite(name, frozenset({"generate", "cache"}), ("score",), TaskOptions, parts, prepare, measure, table)
