"""Beam search against transformers', best-of against single samples; penalties and log-probabilities in a batch."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch

from handscroll.generation import (
    BeamSearch,
    Penalties,
    Sampling,
    beam_search,
    generate,
    samples,
)
from handscroll.kvcache import POLICIES, make_policy
from handscroll.model import Transformer

NEW_TOKENS = 12


def start(model: Transformer, rows: int = 1, policy: Any = "full") -> Any:
    return make_policy(policy).start(model.config, model.position, rows)


def expected(theirs: Any, prompt: list[int], beams: int, stops: list[int], **options: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            num_beams=beams,
            num_return_sequences=beams,
            eos_token_id=stops or None,
            pad_token_id=96,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    return answer.sequences[:, len(prompt) :].tolist(), answer.sequences_scores.tolist()


def padded(tokens: list[int], length: int) -> list[int]:
    return tokens + [96] * (length - len(tokens))


@pytest.mark.parametrize(
    ("beams", "options", "count"),
    [
        (2, {}, 0),
        (4, {}, 1),
        (3, {"early_stopping": True}, 2),
        (4, {"length_penalty": 2.0, "early_stopping": "never"}, 2),
        (3, {"length_penalty": -1.0, "early_stopping": "never"}, 3),
        (4, {"length_penalty": 0.0, "early_stopping": True}, 3),
    ],
    ids=str,
)
def test_equals_transformers(
    beams: int, options: dict[str, Any], count: int, model: Transformer, theirs: Any, prompts: list[list[int]]
) -> None:
    """Tokens and scores of all beams, with stop tokens that the model likes to say."""
    ended_early = 0
    for prompt in prompts[1:3]:
        free = [each.token for each in generate(model, [prompt], start(model), max_new_tokens=NEW_TOKENS)]
        stops = list(dict.fromkeys(free[3:]))[:count]
        tokens, scores = expected(theirs, prompt, beams, stops, **options)
        found = beam_search(
            model,
            prompt,
            start(model),
            BeamSearch(beams, **options),
            max_new_tokens=NEW_TOKENS,
            stop_ids=stops,
        )
        assert [padded(each.tokens, len(tokens[0])) for each in found] == tokens
        assert [each.score for each in found] == pytest.approx(scores, abs=1e-4)
        ended_early += sum(len(each.tokens) < NEW_TOKENS for each in found)
    # A large penalty favours the longest.
    assert ended_early or not count or options.get("length_penalty") == 2.0


def test_penalties_count_for_each_beam(model: Transformer, theirs: Any, prompts: list[list[int]]) -> None:
    sampling = Sampling(penalties=Penalties(repetition=1.5, no_repeat_ngram=2), logit_bias={9: 2.0})
    tokens, _ = expected(
        theirs, prompts[1], 3, [], repetition_penalty=1.5, no_repeat_ngram_size=2, sequence_bias={(9,): 2.0}
    )
    # What was read in an earlier call counts, too.
    cache = start(model)
    list(generate(model, [prompts[1][:3]], cache, max_new_tokens=1))
    found = beam_search(
        model,
        prompts[1][3:],
        cache,
        BeamSearch(3),
        max_new_tokens=NEW_TOKENS,
        sampling=sampling,
        before=prompts[1][:3],
    )
    assert [each.tokens for each in found] == tokens
    plain = beam_search(model, prompts[1], start(model), BeamSearch(3), max_new_tokens=NEW_TOKENS)
    assert plain[0].tokens != tokens[0]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_way_of_remembering_reorders_its_beams(policy: str, model: Transformer, prompts: list[list[int]]) -> None:
    """Within their budget all give the beams of `full`."""
    options = {"block_memory": {"window": 40}, "snapkv": {"budget": 100}, "per_head_budget": {"budget": 100}}
    named = {"policy": policy, **options.get(policy, {})}
    full, other = (
        beam_search(model, prompts[3], start(model, 1, each), BeamSearch(3), max_new_tokens=6)
        for each in ("full", named)
    )
    assert [each.tokens for each in other] == [each.tokens for each in full]


def test_one_beam_is_greedy(model: Transformer, prompts: list[list[int]]) -> None:
    [one] = beam_search(model, prompts[2], start(model), BeamSearch(1), max_new_tokens=NEW_TOKENS)
    assert one.tokens == [e.token for e in generate(model, [prompts[2]], start(model), max_new_tokens=NEW_TOKENS)]


def test_samples_are_those_of_neighbouring_seeds(model: Transformer, prompts: list[list[int]]) -> None:
    """A batch of forks, with penalties and stops per row: each is what the seed gives alone."""
    penalties = Penalties(repetition=1.2, frequency=0.5, no_repeat_ngram=3)
    told: dict[int, list[Any]] = {row: [] for row in range(4)}
    stops = range(0, 97, 12)
    options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "stop_ids": stops}
    sampling = Sampling(1.2, 20, penalties=penalties)
    for each in samples(model, prompts[1], start(model), 4, sampling=sampling, logprobs=2, **options):
        told[each.row].append(each)
    for row, sample in told.items():
        alone = generate(
            model,
            [prompts[1]],
            start(model),
            sampling=Sampling(1.2, 20 + row, penalties=penalties),
            logprobs=2,
            **options,
        )
        for ours, theirs in zip(sample, alone, strict=True):
            assert (ours.token, ours.is_last) == (theirs.token, theirs.is_last)
            assert ours.logprobs.chosen == pytest.approx(theirs.logprobs.chosen, abs=1e-4)
    assert len({tuple(each.token for each in sample) for sample in told.values()}) == 4
    assert len({len(sample) for sample in told.values()}) > 1


def test_a_row_that_nobody_wants_any_more_ends(model: Transformer, prompts: list[list[int]]) -> None:
    whole: list[list[int]] = [[], [], []]
    ended: set[int] = set()
    for each in samples(model, prompts[1], start(model), 3, sampling=Sampling(1.0, 3), max_new_tokens=9, ended=ended):
        whole[each.row].append(each.token)
        if each.row != 1 and len(whole[each.row]) == 4:
            ended.add(each.row)
    assert list(map(len, whole)) == [4, 9, 4]
    alone = generate(model, [prompts[1]], start(model), sampling=Sampling(1.0, 4), max_new_tokens=9)
    assert whole[1] == [each.token for each in alone]


def test_logprobs_are_the_models_own(model: Transformer, prompts: list[list[int]]) -> None:
    """Against the whole text read without a cache; options that change what is picked don't change them."""
    sampling = Sampling(1.5, 3, top_k=9, penalties=Penalties(presence=1.0), logit_bias={4: 1.0})
    told = list(generate(model, [prompts[1]], start(model), max_new_tokens=6, sampling=sampling, logprobs=3))
    ids = [*prompts[1], *(each.token for each in told)]
    logprobs_TV = model(torch.tensor([ids]))[0].log_softmax(-1)
    for place, each in enumerate(told, len(prompts[1]) - 1):
        assert each.logprobs is not None
        assert each.logprobs.chosen == pytest.approx(float(logprobs_TV[place, each.token]), abs=1e-4)
        values, tokens = logprobs_TV[place].topk(3)
        assert [token for token, _ in each.logprobs.best] == tokens.tolist()
        assert [value for _, value in each.logprobs.best] == pytest.approx(values.tolist(), abs=1e-4)
    plain = next(iter(generate(model, [prompts[1]], start(model), max_new_tokens=1)))
    assert plain.logprobs is None


def test_penalties_of_a_batch_are_those_of_each_row(model: Transformer, prompts: list[list[int]]) -> None:
    """Rows of different lengths that leave at different times, greedy and drawn; and something changes by them."""
    penalties = Penalties(repetition=1.3, presence=0.7, frequency=0.3, no_repeat_ngram=2)
    for temperature in (0.0, 1.0):
        sampling = Sampling(temperature, 5, penalties=penalties)
        options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "stop_ids": range(0, 97, 9), "sampling": sampling}
        together: list[list[int]] = [[] for _ in prompts]
        for each in generate(model, prompts, start(model, len(prompts)), **options):
            together[each.row].append(each.token)
        for prompt, row in zip(prompts, together, strict=True):
            assert [each.token for each in generate(model, [prompt], start(model), **options)] == row
            # What was read in an earlier call counts as if it had been read in this one.
            if len(prompt) > 2:
                cache = start(model)
                list(generate(model, [prompt[:2]], cache, max_new_tokens=1))
                split = generate(model, [prompt[2:]], cache, before=[prompt[:2]], **options)
                assert [each.token for each in split] == row
    for row in together:
        pairs = list(pairwise(row))
        assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda model: BeamSearch(0), "beams=0"),
        (lambda model: BeamSearch(length_penalty=float("nan")), "length_penalty=nan"),
        (lambda model: BeamSearch(early_stopping="yes"), "early_stopping='yes'"),  # type: ignore[arg-type]
        (lambda model: next(generate(model, [[1]], start(model), max_new_tokens=1, logprobs=98)), "logprobs=98"),
        (lambda model: beam_search(model, [1], start(model), max_new_tokens=0), "max_new_tokens=0"),
    ],
)
def test_impossible_options_are_refused(make: Any, says: str, model: Transformer) -> None:
    with pytest.raises(ValueError, match=says):
        make(model)
