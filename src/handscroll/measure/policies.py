"""Ways of remembering, side by side: one reading of a document under one policy, with questions on the way.

Joins reading, recall and attended keys. Leaves to others what a result is (`results.py`), and which document, which
questions and which policies there are (suites, recipes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from handscroll.generation.engine import CHUNK
from handscroll.kvcache import AttentionSinks, Full, HeavyHitters, Policy, SlidingWindow, breaks_for, describe
from handscroll.measure.attended import attended_keys
from handscroll.measure.probes import Probe
from handscroll.measure.reading import Reading, ReadStep, read_document
from handscroll.measure.recall import Outcome, ask
from handscroll.measure.results import PolicyResult, Recall
from handscroll.model import Transformer
from handscroll.model.footprint import kv_bytes, require
from handscroll.text import Tokenizer

# Beyond this a full cache is extrapolated: reading costs time in the square of the length.
FULL_LIMIT = 8192


class AskStep(NamedTuple):
    """A question was answered: `asked` of the `total` questions at the length `tokens`."""

    tokens: int
    asked: int
    total: int
    outcome: Outcome


def measure_policy(
    model: Transformer,
    tokenizer: Tokenizer,
    document_ids: Sequence[int],
    probes_by_length: Mapping[int, Sequence[Probe]],
    policy: Policy,
    *,
    limit: int | None = None,
    likelihood: bool = True,
    batch: int = 32,
    max_new_tokens: int = 48,
    chunk: int = CHUNK,
) -> Iterator[ReadStep | AskStep | PolicyResult]:
    """Reads the document once; at each length of `probes_by_length` asks its questions. The last item is the result.

    limit: reading stops after so many tokens, and questions at greater lengths are not asked; give `FULL_LIMIT` where
    a policy's cost grows with the square of the length. Raises DoesNotFit before a full cache outgrows memory.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: at least 1 token is read, or None for the whole document")
    ids = document_ids[:limit]
    require_full(model, policy, len(ids))
    points = [length for length in sorted(probes_by_length) if limit is None or length <= limit]
    window = model_window(model, policy)
    breaks = breaks_for(policy, tokenizer)
    outcomes: list[Outcome] = []
    speeds: list[tuple[int, float]] = []
    step: ReadStep | None = None
    for step in read_document(model, ids, policy, points=points, likelihood=likelihood, chunk=chunk, breaks=breaks):
        yield step
        if step.is_point:
            speeds.append((step.tokens, step.tokens_per_second))
            probes = probes_by_length[step.tokens]
            replies = ask(
                model, tokenizer, step.cache, probes, window=window, batch=batch, max_new_tokens=max_new_tokens
            )
            for asked, outcome in enumerate(replies, 1):
                outcomes.append(outcome)
                yield AskStep(step.tokens, asked, len(probes), outcome)
    assert step is not None
    attended = attended_keys(model, step.cache, ids)
    yield _result(policy, step.reading, outcomes, speeds, attended, len(document_ids))


def require_full(model: Transformer, policy: Policy, tokens: int) -> None:
    """Raises DoesNotFit before a full cache of so many tokens outgrows memory; other policies' are left to them."""
    if isinstance(policy, Full):
        require(kv_bytes(model.config, tokens), f"a full cache of {tokens:,} tokens", model.device)


def model_window(model: Transformer, policy: Policy) -> int:
    """What a policy's user would call the window: the trained one, or a narrower one that the policy imposes."""
    trained = model.config.max_positions
    if isinstance(policy, AttentionSinks):
        return policy.sizes(trained).window
    if isinstance(policy, HeavyHitters):
        return policy.sizes(trained).recent
    return min(trained, policy.window or trained) if isinstance(policy, SlidingWindow) else trained


def _result(
    policy: Policy,
    reading: Reading,
    outcomes: Sequence[Outcome],
    speeds: Sequence[tuple[int, float]],
    attended: int,
    document_tokens: int,
) -> PolicyResult:
    greatest = max((outcome.probe.length for outcome in outcomes), default=0)
    last = [outcome for outcome in outcomes if outcome.probe.length == greatest]
    even = [outcome for outcome in last if not outcome.probe.is_extra]
    languages = sorted({outcome.probe.lang for outcome in even})
    end = reading.chunks[-1]
    return PolicyResult(
        policy=describe(policy),
        recall=Recall.of(even),
        recall_by_lang={lang: Recall.of(each for each in even if each.probe.lang == lang) for lang in languages},
        recall_beyond_window=Recall.of(outcome for outcome in outcomes if outcome.beyond_window),
        recall_inside_window=Recall.of(outcome for outcome in outcomes if not outcome.beyond_window),
        perplexity=reading.likelihood.perplexity if reading.likelihood else None,
        device_bytes=end.device_bytes,
        host_bytes=end.host_bytes,
        seconds=reading.seconds,
        cpu_seconds=reading.cpu_seconds,
        tokens=reading.tokens,
        document_tokens=document_tokens,
        speeds=tuple(speeds),
        attended=attended,
        likelihood=reading.likelihood,
        chunks=reading.chunks,
        outcomes=tuple(outcomes),
    )
