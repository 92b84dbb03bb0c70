"""The suite `perplexity`: how well a text is predicted under each policy, position by position."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from handscroll.kvcache import Full, Policy, breaks_for
from handscroll.measure.attended import attended_keys
from handscroll.measure.likelihood import PositionCurve
from handscroll.measure.policies import FULL_LIMIT
from handscroll.measure.reading import ReadStep, read_document
from handscroll.measure.suites.record import Measured, Record
from handscroll.measure.suites.source import chronicle
from handscroll.measure.suites.suite import Part, Subject, Suite, Work
from handscroll.measure.table import Table, Value
from handscroll.text import read_texts
from handscroll.text.chronicle import LANGUAGES


@dataclass(frozen=True)
class PerplexityOptions:
    """Reads the first `tokens` tokens of `text`, else of `files` (txt, md, jsonl), else of a chronicle."""

    tokens: int = 8192
    text: str = ""
    files: tuple[str, ...] = ()
    languages: tuple[str, ...] = LANGUAGES
    seed: int = 0
    full_limit: int = FULL_LIMIT


def measure(
    subject: Subject, policy: Policy, ids: Sequence[int], options: PerplexityOptions
) -> Iterator[Work | Measured]:
    limit = options.full_limit if isinstance(policy, Full) else None
    step: ReadStep | None = None
    breaks = breaks_for(policy, subject.tokenizer)
    for step in read_document(subject.model, ids[:limit], policy, breaks=breaks):
        yield Work("reading", step.tokens, step.total, "tokens", step.tokens_per_second)
    assert step is not None
    reading, end = step.reading, step.reading.chunks[-1]
    assert reading.likelihood is not None
    yield Measured(
        {"perplexity": reading.likelihood.perplexity},
        tokens=reading.tokens,
        readings=1,
        read_seconds=reading.seconds,
        device_bytes=end.device_bytes,
        host_bytes=end.host_bytes,
        attended=attended_keys(subject.model, step.cache, ids[: reading.tokens]),
        detail={name: list(values) for name, values in dataclasses.asdict(reading.likelihood).items()},
    )


def table(records: Sequence[Record]) -> Table:
    curves = [PositionCurve(**{name: tuple(values) for name, values in each.found.detail.items()}) for each in records]
    return perplexity_table([(each.cell.policy, curve) for each, curve in zip(records, curves, strict=True)])


def perplexity_table(curves: Sequence[tuple[str, PositionCurve]]) -> Table:
    """Rows are ranges of positions, each about twice as far as the one before, and the whole; columns are policies."""
    by_policy = [{each.start: each for each in curve.doublings()} for _, curve in curves]
    rows: list[tuple[Value, ...]] = []
    for start in sorted({start for ranges in by_policy for start in ranges}):
        end = max(ranges[start].end for ranges in by_policy if start in ranges)
        cells = (ranges[start].perplexity if start in ranges else None for ranges in by_policy)
        rows.append((f"{start:,} to {end:,}", *cells))
    rows.append(("all", *(curve.perplexity for _, curve in curves)))
    rows.append(("tokens read", *(curve.borders[-1] for _, curve in curves)))
    return Table("Perplexity against position", ("positions", *(name for name, _ in curves)), tuple(rows))


def parts(options: PerplexityOptions) -> list[Part]:
    return [Part("perplexity")]


def prepare(subject: Subject, part: Part, options: PerplexityOptions) -> list[int]:
    """The tokens that are read."""
    tokenizer = subject.tokenizer
    if options.tokens < 2:
        raise ValueError(
            f"tokens={options.tokens}: perplexity needs at least 2, one to predict from and one to predict"
        )
    if options.text:
        text = options.text
    elif options.files:
        text = "\n".join(read_texts(options.files))
    else:
        text = chronicle(tokenizer, options.tokens, options.languages, options.seed).text
    ids = [*tokenizer.opening_ids, *tokenizer.encode(text)][: options.tokens]
    if len(ids) < 2:
        raise ValueError(f"the text has {len(ids)} tokens: perplexity needs at least 2; give a longer text")
    return ids


PERPLEXITY = Suite(
    "perplexity", frozenset({"logprobs", "cache"}), ("perplexity",), PerplexityOptions, parts, prepare, measure, table
)
