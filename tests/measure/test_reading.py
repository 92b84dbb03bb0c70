"""Reading a document: likelihoods against plain torch, borders of chunks and ranges, points, timing and bytes."""

import math
import time
from itertools import pairwise

import pytest
import torch

from handscroll.kvcache import POLICIES, make_policy
from handscroll.measure.likelihood import NextToken, PositionBuckets, bucket_borders
from handscroll.measure.reading import Reading, read_document
from handscroll.model import Transformer


def read_all(model: Transformer, ids: list[int], policy: str = "full", **options: object) -> Reading:
    *_, last = read_document(model, ids, make_policy(policy), **options)  # type: ignore[arg-type]
    return last.reading


@pytest.fixture
def ids(model: Transformer) -> list[int]:
    return torch.randint(model.config.vocab_size, (700,)).tolist()


@pytest.mark.parametrize("chunk", [1, 64, 100, 700, 2048])
def test_likelihood_equals_a_plain_computation_for_any_chunk(model: Transformer, ids: list[int], chunk: int) -> None:
    ids = ids[:150] if chunk == 1 else ids
    with torch.no_grad():
        log_probs_TV = model(torch.tensor([ids]))[0].double().log_softmax(-1)
    nll_T = -log_probs_TV[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    curve = read_all(model, ids, chunk=chunk).likelihood
    assert curve is not None
    assert curve.tokens == len(ids) - 1
    assert curve.perplexity == pytest.approx(nll_T.mean().exp().item(), rel=1e-5)
    for start, end, perplexity in curve.ranges():
        # The token at position p is predicted by the hidden state before it, so nll_T[p - 1] is its cost.
        assert perplexity == pytest.approx(nll_T[max(start, 1) - 1 : end - 1].mean().exp().item(), rel=1e-4)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(model: Transformer, policy: str) -> None:
    blind = Transformer(model.config, seed=0)
    torch.nn.init.zeros_(blind.output_weight_VE)
    reading = read_all(blind, list(range(300)), policy, chunk=128)
    assert reading.likelihood is not None
    assert reading.likelihood.perplexity == pytest.approx(model.config.vocab_size, rel=1e-5)


def test_pauses_hand_out_a_cache_of_that_length_and_change_nothing(model: Transformer, ids: list[int]) -> None:
    steps = list(read_document(model, ids, make_policy("full"), points=(130, 256, 700), chunk=128))
    assert [step.tokens for step in steps] == [128, 130, 256, 384, 512, 640, 700]
    assert [step.tokens for step in steps if step.is_point] == [130, 256, 700]
    lengths = [(step.tokens, step.cache.lengths) for step in read_document(model, ids, make_policy("full"), chunk=128)]
    assert all(held == (tokens,) for tokens, held in lengths)
    alone = read_all(model, ids, chunk=128).likelihood
    paused = steps[-1].reading.likelihood
    assert alone is not None
    assert paused is not None
    assert paused.perplexity == pytest.approx(alone.perplexity, rel=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
def test_bytes_and_seconds_of_every_chunk(model: Transformer, ids: list[int], policy: str) -> None:
    *_, last = read_document(model, ids, make_policy(policy), chunk=256)
    chunks = last.reading.chunks
    assert [(chunk.start, chunk.end) for chunk in chunks] == [(0, 256), (256, 512), (512, 700)]
    assert all(chunk.seconds > 0 and chunk.cpu_seconds > 0 for chunk in chunks)
    assert (chunks[-1].device_bytes, chunks[-1].host_bytes) == tuple(last.cache.bytes())
    assert last.reading.tokens == 700
    assert last.tokens_per_second == pytest.approx(700 / last.reading.seconds)


def test_the_likelihood_is_outside_of_the_reading_time(
    model: Transformer, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = NextToken.add
    monkeypatch.setattr(NextToken, "add", lambda self, *given: (time.sleep(0.3), original(self, *given))[1])
    read_all(model, ids[:64])
    assert read_all(model, ids[:64]).seconds < 0.25


@pytest.mark.parametrize("total", [1, 2, 63, 64, 65, 1000, 8192, 131_072, 131_073])
def test_ranges_cover_every_position_once(total: int) -> None:
    borders = bucket_borders(total)
    assert borders[0] == 0
    assert borders[-1] == total
    widths = [end - start for start, end in pairwise(borders)]
    assert all(width > 0 for width in widths)
    assert max(widths) <= max(64, math.ceil(total / 32))
    buckets = PositionBuckets(total)
    buckets.add(torch.ones(total), 0)
    assert buckets.curve(total).counts == tuple(widths)


def test_ranges_of_a_reading_that_stops_early_end_where_it_stopped(model: Transformer) -> None:
    buckets = PositionBuckets(1000)
    buckets.add(torch.full((300,), 2.0), 0)
    curve = buckets.curve(300)
    assert curve.borders == (0, 64, 128, 192, 256, 300)
    assert curve.tokens == 300
    assert curve.perplexity == pytest.approx(math.e**2)


def test_a_few_last_tokens_are_no_range_of_their_own() -> None:
    buckets = PositionBuckets(133)
    buckets.add(torch.full((128,), 2.0), 0)
    buckets.add(torch.full((5,), 9.0), 128)
    last = buckets.curve(133).ranges()[-1]
    assert (last.start, last.end) == (64, 133)
    assert last.perplexity == pytest.approx(math.exp((64 * 2.0 + 5 * 9.0) / 69))


def test_one_token_has_no_perplexity(model: Transformer) -> None:
    curve = read_all(model, [5]).likelihood
    assert curve is not None
    assert curve.perplexity is None
    assert curve.ranges() == []


def test_mistakes_are_named(model: Transformer) -> None:
    with pytest.raises(ValueError, match="empty"):
        read_all(model, [])
    with pytest.raises(ValueError, match=r"read point 9 .* 5 tokens"):
        read_all(model, [1, 2, 3, 4, 5], points=(9,))
    with pytest.raises(ValueError, match="chunk=0"):
        read_all(model, [1, 2], chunk=0)


def test_a_prompt_ends_at_points_and_nowhere_else(model: Transformer, ids: list[int]) -> None:
    """snapkv keeps a quarter of a prompt once that is read, not of each chunk."""
    policy = make_policy({"policy": "snapkv", "share": 0.25, "observation": 8})
    held = {
        step.tokens: step.cache.bytes().device
        for step in read_document(model, ids[:700], policy, points=(512,), chunk=128)
    }
    whole = {
        step.tokens: step.cache.bytes().device
        for step in read_document(model, ids[:700], make_policy("full"), chunk=128)
    }
    # Queries that will vote are held besides.
    assert whole[384] <= held[384] < 1.1 * whole[384]
    assert held[512] <= whole[512] / 2
    assert held[640] > held[512]
    assert held[700] < held[640]
