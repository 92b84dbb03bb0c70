"""Policies side by side: what is read and asked where, what is counted as what, JSON, extrapolation, attended keys."""

import json
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch

from handscroll.kvcache import (
    POLICIES,
    AttentionSinks,
    BlockMemory,
    Full,
    HeavyHitters,
    Policy,
    SlidingWindow,
    make_policy,
)
from handscroll.measure import policies
from handscroll.measure.attended import attended_keys
from handscroll.measure.extrapolation import extrapolate_chunks
from handscroll.measure.policies import AskStep, measure_policy
from handscroll.measure.probes import Probe, TokenSpans, make_probes
from handscroll.measure.reading import Chunk, ReadStep
from handscroll.measure.recall import Outcome
from handscroll.measure.results import PolicyResult, Recall, extrapolate, policy_name, policy_table
from handscroll.model import Cache, ModelConfig, Transformer
from handscroll.model.slots import Learned2dOptions, LearnedOptions, PositionOptions
from handscroll.text import Tokenizer
from handscroll.text.chronicle import Document, even_questions


@pytest.fixture(scope="module")
def ids(tokenizer: Tokenizer, document: Document) -> list[int]:
    return tokenizer.encode(document.text)


@pytest.fixture(scope="module")
def probes(tokenizer: Tokenizer, document: Document, ids: list[int]) -> dict[int, list[Probe]]:
    spans = TokenSpans(tokenizer.encode_with_offsets(document.text).offsets)
    questions = even_questions(document, 3, random.Random(0))
    return {length: make_probes(questions, spans, length) for length in (2000, len(ids))}


def measure(model: Transformer, tokenizer: Tokenizer, ids: list[int], probes: dict[int, list[Probe]], **options):  # type: ignore[no-untyped-def]
    policy = options.pop("policy", Full())
    return list(measure_policy(model, tokenizer, ids, probes, policy, max_new_tokens=3, chunk=512, **options))


@pytest.mark.parametrize("name", POLICIES)
def test_progress_comes_before_the_result_and_the_result_survives_as_json(
    model: Transformer, tokenizer: Tokenizer, ids: list[int], probes: dict[int, list[Probe]], name: str
) -> None:
    *steps, result = measure(model, tokenizer, ids, probes, policy=make_policy(name))
    assert isinstance(result, PolicyResult)
    assert [step.tokens for step in steps if isinstance(step, ReadStep)][-1] == len(ids)
    asked = [step for step in steps if isinstance(step, AskStep)]
    assert len(asked) == len(result.outcomes) == sum(map(len, probes.values()))
    assert (result.tokens, result.document_tokens, result.recall.asked) == (len(ids), len(ids), 6)
    assert [tokens for tokens, _ in result.speeds] == [2000, len(ids)]
    assert result.name == name
    for each in (result, extrapolate(result, 1_000_000)):
        assert PolicyResult.from_json(json.loads(json.dumps(each.to_json()))) == each


def test_a_limit_stops_reading_and_asks_no_later_question(
    model: Transformer, tokenizer: Tokenizer, ids: list[int], probes: dict[int, list[Probe]]
) -> None:
    result = measure(model, tokenizer, ids, probes, limit=2048)[-1]
    assert (result.tokens, result.document_tokens) == (2048, len(ids))
    assert result.recall.asked == len(probes[2000])
    with pytest.raises(ValueError, match="read point"):
        measure(model, tokenizer, ids, {len(ids) + 1: []})
    with pytest.raises(ValueError, match="limit=0"):
        measure(model, tokenizer, ids, {}, limit=0)


def test_shares_are_those_of_the_greatest_length_and_window_shares_those_of_all(
    model: Transformer, tokenizer: Tokenizer, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 1,000 tokens 4 beyond, all wrong; at 2,000 en 2 of 3 (one beyond), zh 0 of 1; extra: 1 of 1 inside."""

    def probe(lang: str, length: int, right: bool, beyond: bool, extra: bool = False) -> tuple[Probe, Outcome]:
        asked = Probe(f"{lang}", lang, "?", ("a",), ("a",), "trade", "s", 0, 5, length, extra)
        return asked, Outcome(asked, "a", right, beyond)

    script = {
        1000: [probe("en", 1000, False, True)] * 4,
        2000: [
            probe("en", 2000, True, True),
            probe("en", 2000, True, False),
            probe("en", 2000, False, True),
            probe("zh", 2000, False, True),
            probe("en", 2000, True, False, extra=True),
        ],
    }

    def scripted(
        model: Transformer, tokenizer: Tokenizer, cache: Cache, probes: Sequence[Probe], **_: object
    ) -> Iterator[Outcome]:
        yield from (outcome for _, outcome in script[cache.lengths[0]])

    monkeypatch.setattr(policies, "ask", scripted)
    result = measure(model, tokenizer, ids, {length: [p for p, _ in pairs] for length, pairs in script.items()})[-1]
    assert result.recall == Recall(2, 4)
    assert result.recall_by_lang == {"en": Recall(2, 3), "zh": Recall(0, 1)}
    assert result.recall_beyond_window == Recall(1, 7)
    assert result.recall_inside_window == Recall(2, 2)
    summary = result.summary()
    assert summary["recall"] == 0.5
    assert summary["recall_by_lang"] == {"en": 2 / 3, "zh": 0.0}
    assert "extrapolated" not in summary
    json.dumps(summary)
    assert Recall(0, 0).share is None


@pytest.mark.parametrize(
    ("policy", "attended"),
    [
        (Full(), 3000),
        (SlidingWindow(), 128),
        (SlidingWindow(window=50), 50),
        (AttentionSinks(), 128),
        (AttentionSinks(window=50), 4 + 50 + 16),
        (HeavyHitters(), 128),
        (HeavyHitters(heavy=20, recent=30), 20 + 30 + 16),
        (BlockMemory(), 72),
        (BlockMemory(blocks=2, window=40, sinks=4), 4 + 2 * 8 + 40 + 16),
        (BlockMemory(local_layers=1), 72),
        (BlockMemory(dense_layers=1), 3000),
    ],
)
def test_attended_keys_are_counted_in_the_weights(
    model: Transformer, tokenizer: Tokenizer, ids: list[int], policy: Policy, attended: int
) -> None:
    result = measure(model, tokenizer, ids[:3000], {}, policy=policy, likelihood=False)[-1]
    # A local window of whole blocks may hold up to a block less than it is allowed to.
    assert attended - 8 < result.attended <= attended
    if not isinstance(policy, BlockMemory):
        assert result.attended == attended
    assert result.perplexity is None
    assert result.recall.share is None


@pytest.mark.parametrize("position", [LearnedOptions(), Learned2dOptions()], ids=["learned", "learned_2d"])
def test_attended_keys_of_a_text_that_fills_a_table_of_learnt_positions(position: PositionOptions) -> None:
    config = ModelConfig(97, 32, 1, 4, 2, 8, 32, max_positions=40, position=position)
    model = Transformer(config, seed=1).requires_grad_(False)
    for policy, attended in ((Full(), 40), (SlidingWindow(window=9), 9)):
        cache = policy.start(config, model.position, 1)
        ids = list(range(40))
        model.hidden(torch.tensor([ids]), cache=cache)
        assert attended_keys(model, cache, ids) == attended


def test_blocks_that_end_with_sentences_are_told_where_these_end(
    model: Transformer, tokenizer: Tokenizer, ids: list[int], probes: dict[int, list[Probe]]
) -> None:
    *steps, result = measure(model, tokenizer, ids, probes, policy=BlockMemory(cut="sentences"), likelihood=False)
    cache = next(step.cache for step in reversed(steps) if isinstance(step, ReadStep))
    ends = {place + 1 for place, token in enumerate(ids) if token in tokenizer.sentence_ends}
    edges = cache.layers[0].rows[0].edges_N.tolist()
    short = {end for start, end in pairwise(edges) if end - start < 8}
    assert short and short <= ends
    assert {start for outcome in result.outcomes[-3:] for start in outcome.blocks} <= set(edges)
    assert all(outcome.gold_read is not None for outcome in result.outcomes if outcome.probe.depth < 0.9)


def test_the_window_is_the_narrower_one(model: Transformer) -> None:
    assert policies.model_window(model, SlidingWindow(window=50)) == 50
    assert policies.model_window(model, SlidingWindow(window=5000)) == 128
    assert policies.model_window(model, AttentionSinks()) == 128 - 4 - 16
    assert policies.model_window(model, HeavyHitters(recent=30)) == 30
    assert policies.model_window(model, BlockMemory()) == 128


def chunks(a: float, b: float, noise: float = 0.0, count: int = 16) -> list[Chunk]:
    rng = np.random.default_rng(0)
    made = []
    for start in range(0, 512 * count, 512):
        end = start + 512
        seconds = (a * (end - start) + b * (end**2 - start**2)) * (1 + noise * rng.standard_normal())
        made.append(Chunk(start, end, seconds, seconds, 4096 + 100 * end, 7 * end))
    return made


def test_extrapolation_recovers_what_made_the_measurements() -> None:
    guess = extrapolate_chunks(chunks(2e-5, 3e-9), 131_072)
    assert (guess.a, guess.b) == (pytest.approx(2e-5), pytest.approx(3e-9))
    assert guess.seconds == pytest.approx(2e-5 * 131_072 + 3e-9 * 131_072**2)
    assert (guess.device_bytes, guess.host_bytes) == (4096 + 100 * 131_072, 7 * 131_072)
    assert (guess.tokens, guess.measured_tokens) == (131_072, 8192)
    noisy = extrapolate_chunks(chunks(2e-5, 3e-9, noise=0.02), 131_072)
    assert noisy.seconds == pytest.approx(guess.seconds, rel=0.1)


def test_extrapolated_costs_never_fall() -> None:
    flat = extrapolate_chunks(chunks(2e-5, 0.0, noise=0.3), 10**6)
    assert flat.a >= 0
    assert flat.b >= 0
    alone = extrapolate_chunks(chunks(2e-5, 0.0, count=1), 1024)
    assert alone.seconds == pytest.approx(2e-5 * 1024)
    steep = extrapolate_chunks(chunks(0.0, 3e-9), 1024)
    assert steep.b == pytest.approx(3e-9)
    with pytest.raises(ValueError, match="nothing was measured"):
        extrapolate_chunks([], 10)


def test_estimates_stand_apart_in_summary_and_table(model: Transformer, tokenizer: Tokenizer, ids: list[int]) -> None:
    measured = measure(model, tokenizer, ids, {})[-1]
    guessed = extrapolate(measured, 10**6)
    before, after = measured.summary(), guessed.summary()
    assert after.pop("extrapolated")["tokens"] == 10**6
    assert after == before
    table = policy_table([measured, guessed])
    assert table.column("policy") == ["full", "full", "full, extrapolated"]
    assert table.rows[0] == table.rows[1]
    assert table.rows[2][1:7] == (10**6, None, None, None, None, None)


def test_names_say_what_is_not_default() -> None:
    assert policy_name({"policy": "full"}) == "full"
    assert policy_name({"policy": "block_memory", "blocks": 8, "tile": 32}) == "block_memory blocks=8 tile=32"
