"""The suite `recall`: a chronicle is read under each policy, and questions about it are asked at its end.

Half of what it tells is where a policy stops to know: questions are spread evenly over the depth, and every fact in
the last window is asked for besides, so that recall inside and beyond the window stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from handscroll.kvcache import Full, Policy
from handscroll.measure.policies import FULL_LIMIT, AskStep, measure_policy
from handscroll.measure.probes import TokenSpans, document_probes
from handscroll.measure.reading import timed
from handscroll.measure.results import PolicyResult
from handscroll.measure.suites.depths import by_depth
from handscroll.measure.suites.record import Measured, Record
from handscroll.measure.suites.source import chronicle
from handscroll.measure.suites.suite import Part, Subject, Suite, Work
from handscroll.measure.table import Table, Value
from handscroll.text.chronicle import LANGUAGES, Document


@dataclass(frozen=True)
class RecallOptions:
    """`questions` are per language. `full` is read up to `full_limit` tokens only, and asked there."""

    tokens: int = 8192
    languages: tuple[str, ...] = LANGUAGES
    seed: int = 0
    questions: int = 20
    full_limit: int = FULL_LIMIT
    batch: int = 32
    max_new_tokens: int = 48

    def __post_init__(self) -> None:
        for name in ("questions", "batch", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1")


@dataclass(frozen=True)
class Material:
    """A chronicle as tokens, and where its characters are among them."""

    document: Document
    ids: list[int]
    spans: TokenSpans


def parts(options: RecallOptions) -> list[Part]:
    return [Part("recall")]


def prepare(subject: Subject, part: Part, options: RecallOptions) -> Material:
    tokenizer = subject.tokenizer
    document = chronicle(tokenizer, options.tokens, options.languages, options.seed)
    encoding, first = tokenizer.encode_with_offsets(document.text), tokenizer.opening_ids
    return Material(document, [*first, *encoding.ids], TokenSpans(encoding.offsets, before=len(first)))


def measure(subject: Subject, policy: Policy, read: Material, options: RecallOptions) -> Iterator[Work | Measured]:
    length = min(len(read.ids), options.full_limit) if isinstance(policy, Full) else len(read.ids)
    per_language, window = options.questions, subject.model.config.max_positions
    probes = document_probes(
        read.document, read.spans, length, per_language=per_language, seed=options.seed, window=window
    )
    steps = measure_policy(
        subject.model,
        subject.tokenizer,
        read.ids,
        {length: probes},
        policy,
        limit=length,
        likelihood=False,
        batch=options.batch,
        max_new_tokens=options.max_new_tokens,
    )
    answering = 0.0
    for seconds, step in timed(steps, subject.model.device):
        if isinstance(step, PolicyResult):
            yield found(step, options.languages, answering)
        elif isinstance(step, AskStep):
            answering += seconds
            yield Work("asking", step.asked, step.total, "questions")
        else:
            yield Work("reading", step.tokens, step.total, "tokens", step.tokens_per_second)


def found(result: PolicyResult, languages: Sequence[str], answering: float) -> Measured:
    """The figures of a policy; its score counts the questions that are spread over the depth."""
    by_lang = result.recall_by_lang
    even = [outcome for outcome in result.outcomes if not outcome.probe.is_extra]
    return Measured(
        {
            "score": result.recall.share,
            **{f"recall {lang}": by_lang[lang].share if lang in by_lang else None for lang in languages},
            "recall beyond window": result.recall_beyond_window.share,
            "recall inside window": result.recall_inside_window.share,
        },
        tokens=result.tokens,
        asked=result.recall.asked,
        readings=1,
        read_seconds=result.seconds,
        answer_seconds=answering,
        device_bytes=result.device_bytes,
        host_bytes=result.host_bytes,
        attended=result.attended,
        detail={
            "by_depth": by_depth((outcome.probe.depth, float(outcome.correct)) for outcome in even),
            "replies": [
                {"question": each.probe.question, "answers": list(each.probe.answers), "reply": each.reply}
                | {"depth": each.probe.depth, "score": float(each.correct)}
                for each in even
            ],
        },
    )


def recall_table(records: Sequence[Record]) -> Table:
    """One row per policy: recall over all depths, by language, beyond and inside the window, and what it cost."""
    names = [name for name in records[0].found.figures if name != "score"]
    columns = ("policy", "tokens", "questions", "recall", *names, "attended keys", "device MB", "host MB", "seconds")

    def row(record: Record) -> tuple[Value, ...]:
        each = record.found
        held = (each.attended, each.device_bytes / 1e6, each.host_bytes / 1e6)
        return (record.cell.policy, each.tokens, each.asked, *each.figures.values(), *held, each.read_seconds)

    return Table("Recall of a chronicle", columns, tuple(map(row, records)), frozenset(("recall", *names)))


RECALL = Suite(
    "recall", frozenset({"generate", "cache"}), ("score",), RecallOptions, parts, prepare, measure, recall_table
)
