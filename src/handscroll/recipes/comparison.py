"""The policies of a quickstart, one after the other: each reads the document and is asked about it.

Knows where a reading pauses for questions, and that a policy that is finished is never measured again. Leaves
measuring to `measure/`.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from handscroll.kvcache import BlockMemory, Full, Policy, SlidingWindow
from handscroll.measure import (
    FULL_LIMIT,
    AskStep,
    PolicyResult,
    Probe,
    TokenSpans,
    document_probes,
    extrapolate,
    measure_policy,
)
from handscroll.model import Transformer
from handscroll.recipes.events import Advance, Event
from handscroll.text import Tokenizer
from handscroll.text.chronicle import Document
from handscroll.text.files import write_files

POLICIES: dict[str, Policy] = {"full": Full(), "sliding_window": SlidingWindow(), "block_memory": BlockMemory()}
FOLDER = "policies"
# Short enough for every policy to be asked there.
EARLY_POINTS = (4096, FULL_LIMIT)
QUESTIONS_ON_THE_WAY = 24
# So often reading pauses; in between only what the window holds is asked for, since a window holds few facts.
PAUSES = 32


@dataclass(frozen=True)
class Reading:
    """A document as tokens, the first of them bos, and the questions at each length."""

    document: Document
    ids: list[int]
    spans: TokenSpans
    probes: dict[int, list[Probe]]

    @classmethod
    def of(cls, document: Document, tokenizer: Tokenizer, window: int, questions: int, seed: int) -> Reading:
        """`questions` per language at the end, fewer on the way, and at each pause what the window holds besides."""
        encoding = tokenizer.encode_with_offsets(document.text)
        spans, total = TokenSpans(encoding.offsets, before=1), len(encoding.ids) + 1
        first = spans.span(document.facts[0].fact_start, document.facts[0].fact_end)[1]
        asked = {*EARLY_POINTS, total // 4, total // 2, total}
        pauses = {total * number // PAUSES for number in range(1, PAUSES + 1)}
        probes = {}
        for point in sorted(point for point in asked | pauses if first < point <= total):
            number = questions if point == total else min(questions, QUESTIONS_ON_THE_WAY) if point in asked else 0
            found = document_probes(document, spans, point, per_language=number, seed=seed, window=window)
            if found:
                probes[point] = found
        return cls(document, [tokenizer.id_of("<|bos|>"), *encoding.ids], spans, probes)


def compare(
    model: Transformer, tokenizer: Tokenizer, reading: Reading, out: Path, *, full: bool
) -> Generator[Event, None, list[PolicyResult]]:
    """Measures what `out` doesn't hold yet; returns the results of all. Without `full`, that policy stops early."""
    results = []
    for name, policy in POLICIES.items():
        path = out / FOLDER / f"{name}.json"
        if not path.is_file():
            limit = FULL_LIMIT if isinstance(policy, Full) and not full else None
            result = yield from _measure(model, tokenizer, reading, name, limit)
            write_files(path.parent, {path.name: [json.dumps(result.to_json(), ensure_ascii=False), "\n"]})
        results.append(PolicyResult.from_json(json.loads(path.read_text(encoding="utf-8"))))
    return results


def _measure(
    model: Transformer, tokenizer: Tokenizer, reading: Reading, name: str, limit: int | None
) -> Generator[Event, None, PolicyResult]:
    total = len(reading.ids)
    if limit is not None and limit >= total:
        limit = None
    to_ask = sum(len(probes) for point, probes in reading.probes.items() if limit is None or point <= limit)
    asked = right = 0
    for step in measure_policy(model, tokenizer, reading.ids, reading.probes, POLICIES[name], limit=limit):
        if isinstance(step, PolicyResult):
            return step if limit is None else extrapolate(step, total)
        if isinstance(step, AskStep):
            asked, right = asked + 1, right + step.outcome.correct
            yield Advance(f"Asking: {name}", asked, to_ask, "questions", note=f"{right} right")
        else:
            yield Advance(f"Reading: {name}", step.tokens, step.total, "tokens", step.tokens_per_second)
    raise AssertionError("a measurement ends with its result")
