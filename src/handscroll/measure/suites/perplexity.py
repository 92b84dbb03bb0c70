"""The suite `perplexity`: how well a text is predicted under each policy, position by position.

Per token, and in bits per byte of the text: the surprise of a token depends on how much text it stands for, that of a
byte doesn't, so that models with different tokenizers are compared by it (arXiv 2101.00027, section 3.1).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from handscroll.kvcache import Full, Policy, breaks_for
from handscroll.measure.attended import attended_keys
from handscroll.measure.likelihood import PositionCurve, bits_per_byte, token_bytes
from handscroll.measure.policies import FULL_LIMIT
from handscroll.measure.reading import ReadStep, read_document
from handscroll.measure.strided import Strided, read_strided, windows
from handscroll.measure.suites.record import Measured, Record
from handscroll.measure.suites.source import chronicle
from handscroll.measure.suites.suite import Part, Subject, Suite, Work
from handscroll.measure.table import Table, Value
from handscroll.text import Tokenizer, read_texts
from handscroll.text.chronicle import LANGUAGES


@dataclass(frozen=True)
class PerplexityOptions:
    """Reads the first `tokens` tokens of `text`, else of `files` (txt, md, jsonl), else of a chronicle.

    With `window` the text is read in windows of so many tokens, each anew, that move on by `stride` (half a window).
    """

    tokens: int = 8192
    text: str = ""
    files: tuple[str, ...] | str = ()
    languages: tuple[str, ...] = LANGUAGES
    seed: int = 0
    full_limit: int = FULL_LIMIT
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None:
            windows(0, self.window, self.step)
        elif self.stride is not None:
            raise ValueError(f"stride={self.stride}: windows move on by it; give their length, too, as window")

    @property
    def step(self) -> int:
        """Tokens by which a window moves on."""
        return self.stride or max(1, (self.window or 2) // 2)


class Material(NamedTuple):
    """The tokens that are read, and the bytes of the text that each stands for."""

    ids: list[int]
    bytes_T: np.ndarray[tuple[int], np.dtype[np.int64]]


def measure(
    subject: Subject, policy: Policy, material: Material, options: PerplexityOptions
) -> Iterator[Work | Measured]:
    if options.window is not None:
        yield from _measure_strided(subject, policy, material, options.window, options.step)
        return
    ids = material.ids
    limit = options.full_limit if isinstance(policy, Full) else None
    step: ReadStep | None = None
    breaks = breaks_for(policy, subject.tokenizer)
    for step in read_document(subject.model, ids[:limit], policy, breaks=breaks):
        yield Work("reading", step.tokens, step.total, "tokens", step.tokens_per_second)
    assert step is not None
    reading, end = step.reading, step.reading.chunks[-1]
    assert reading.likelihood is not None
    yield Measured(
        _figures(reading.likelihood, int(material.bytes_T[1 : reading.tokens].sum())),
        tokens=reading.tokens,
        readings=1,
        read_seconds=reading.seconds,
        device_bytes=end.device_bytes,
        host_bytes=end.host_bytes,
        attended=attended_keys(subject.model, step.cache, ids[: reading.tokens]),
        detail={name: list(values) for name, values in dataclasses.asdict(reading.likelihood).items()},
    )


def _measure_strided(
    subject: Subject, policy: Policy, material: Material, window: int, stride: int
) -> Iterator[Work | Measured]:
    ids, started, held, readings, counted = material.ids, time.perf_counter(), [], 0, 0
    step: Strided | None = None
    for step in read_strided(subject.model, ids, policy, window, stride, breaks_for(policy, subject.tokenizer)):
        held.append(step.cache.bytes())
        readings, counted = readings + 1, counted + int(material.bytes_T[step.window.counted : step.window.last].sum())
        seconds = time.perf_counter() - started
        yield Work("reading", step.tokens, len(ids), "tokens", step.tokens / seconds)
    assert step is not None
    yield Measured(
        _figures(step.curve, counted),
        tokens=step.window.last - step.window.first,
        readings=readings,
        read_seconds=time.perf_counter() - started,
        device_bytes=max(each.device for each in held),
        host_bytes=max(each.host for each in held),
        attended=attended_keys(subject.model, step.cache, ids[step.window.first : step.window.last]),
        detail={name: list(values) for name, values in dataclasses.asdict(step.curve).items()},
    )


def _figures(curve: PositionCurve, counted_bytes: int) -> dict[str, float | None]:
    bits = bits_per_byte(sum(curve.nll_sums), counted_bytes)
    return {"perplexity": curve.perplexity, "bits_per_byte": bits}


def table(records: Sequence[Record]) -> Table:
    curves = [PositionCurve(**{name: tuple(values) for name, values in each.found.detail.items()}) for each in records]
    bits = [each.found.figures.get("bits_per_byte") for each in records]
    return perplexity_table([(each.cell.policy, curve) for each, curve in zip(records, curves, strict=True)], bits)


def perplexity_table(curves: Sequence[tuple[str, PositionCurve]], bits: Sequence[float | None]) -> Table:
    """Rows are ranges of positions, each about twice as far as the one before, and the whole; columns are policies.

    `bits`: per byte of the whole, for each policy.
    """
    by_policy = [{each.start: each for each in curve.doublings()} for _, curve in curves]
    rows: list[tuple[Value, ...]] = []
    for start in sorted({start for ranges in by_policy for start in ranges}):
        end = max(ranges[start].end for ranges in by_policy if start in ranges)
        cells = (ranges[start].perplexity if start in ranges else None for ranges in by_policy)
        rows.append((f"{start:,} to {end:,}", *cells))
    rows.append(("all", *(curve.perplexity for _, curve in curves)))
    rows.append(("bits per byte", *bits))
    rows.append(("tokens read", *(curve.borders[-1] for _, curve in curves)))
    return Table("Perplexity against position", ("positions", *(name for name, _ in curves)), tuple(rows))


def parts(options: PerplexityOptions) -> list[Part]:
    return [Part("perplexity")]


def prepare(subject: Subject, part: Part, options: PerplexityOptions) -> Material:
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
    material = _material(tokenizer, text, options.tokens)
    if len(material.ids) < 2:
        raise ValueError(f"the text has {len(material.ids)} tokens: perplexity needs at least 2; give a longer text")
    return material


def _material(tokenizer: Tokenizer, text: str, most: int) -> Material:
    """The first tokens."""
    opening, encoded = tokenizer.opening_ids, tokenizer.encode_with_offsets(text)
    bytes_T = np.concatenate((np.zeros(len(opening), dtype=np.int64), token_bytes(text, encoded.offsets)))
    return Material([*opening, *encoded.ids][:most], bytes_T[:most])


PERPLEXITY = Suite(
    "perplexity",
    frozenset({"logprobs", "cache"}),
    ("perplexity", "bits_per_byte"),
    PerplexityOptions,
    parts,
    prepare,
    measure,
    table,
)
