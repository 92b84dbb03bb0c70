"""The suite `recall`: a chronicle is read under each policy, and questions about it are asked at its end.

Half of what it tells is where a policy stops to know: questions are spread evenly over the depth, and every fact in
the last window is asked for besides, so that recall inside and beyond the window stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from handscroll.kvcache import Full, Policy, describe
from handscroll.measure.policies import FULL_LIMIT, measure_policy
from handscroll.measure.probes import Probe, TokenSpans, document_probes
from handscroll.measure.results import PolicyResult, policy_name
from handscroll.measure.suites.source import chronicle
from handscroll.measure.suites.suite import Subject, Suite, SuiteStep
from handscroll.measure.table import Table, Value
from handscroll.text.chronicle import LANGUAGES


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


def measure(subject: Subject, policies: Sequence[Policy], options: RecallOptions) -> Iterator[SuiteStep | Table]:
    model, tokenizer = subject.model, subject.tokenizer
    document = chronicle(tokenizer, options.tokens, options.languages, options.seed)
    encoding, first = tokenizer.encode_with_offsets(document.text), tokenizer.opening_ids
    ids, spans = [*first, *encoding.ids], TokenSpans(encoding.offsets, before=len(first))

    def probes(length: int) -> dict[int, list[Probe]]:
        window = model.config.max_positions
        per_language = options.questions
        asked = document_probes(document, spans, length, per_language=per_language, seed=options.seed, window=window)
        return {length: asked}

    results = []
    for number, policy in enumerate(policies, 1):
        name = policy_name(describe(policy))
        limit = min(len(ids), options.full_limit) if isinstance(policy, Full) else len(ids)
        for step in measure_policy(
            model,
            tokenizer,
            ids,
            probes(limit),
            policy,
            limit=limit,
            likelihood=False,
            batch=options.batch,
            max_new_tokens=options.max_new_tokens,
        ):
            if isinstance(step, PolicyResult):
                results.append(step)
            else:
                yield SuiteStep(name, number, len(policies), step)
    yield recall_table(results, options.languages)


def recall_table(results: Sequence[PolicyResult], languages: Sequence[str]) -> Table:
    """One row per policy: recall over all depths, by language, beyond and inside the window, and what it cost."""
    shares = ("recall", *(f"recall {lang}" for lang in languages), "recall beyond window", "recall inside window")
    columns = ("policy", "tokens", "questions", *shares, "attended keys", "device MB", "host MB", "seconds")

    def row(result: PolicyResult) -> tuple[Value, ...]:
        by_lang = (result.recall_by_lang[lang].share if lang in result.recall_by_lang else None for lang in languages)
        recalls = (result.recall.share, *by_lang, result.recall_beyond_window.share, result.recall_inside_window.share)
        held = (result.device_bytes / 1e6, result.host_bytes / 1e6)
        return (result.name, result.tokens, result.recall.asked, *recalls, result.attended, *held, result.seconds)

    return Table("Recall of a chronicle", columns, tuple(map(row, results)), frozenset(shares))


RECALL = Suite(frozenset({"generate", "cache"}), RecallOptions, measure)
