"""Generation against transformers' own, and what it promises whoever calls it: batches, chunks, ends, bad input."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from handscroll.generation import Sampling, generate, read
from handscroll.kvcache import POLICIES, make_policy
from handscroll.model import Transformer
from handscroll.model.position import DynamicOptions

# Where the two best logits are closer than this, two right implementations may differ.
MARGIN = 1e-4
# Prompts of up to 40 tokens and as many new ones: within every policy's budget for a window of 128.
NEW_TOKENS = 30
SETTINGS = {name: {"policy": name} for name in POLICIES} | {
    "block_memory": {"policy": "block_memory", "window": 40},
    "snapkv": {"policy": "snapkv", "budget": 100},
    "per_head_budget": {"policy": "per_head_budget", "budget": 100},
}


def continued(
    model: Transformer, prompts: Sequence[Sequence[int]], policy: str = "full", **options: Any
) -> list[list[int]]:
    """Every row's new tokens."""
    cache = make_policy(SETTINGS[policy]).start(model.config, model.position, len(prompts))
    rows: list[list[int]] = [[] for _ in prompts]
    for emitted in generate(model, prompts, cache, **{"max_new_tokens": NEW_TOKENS, **options}):
        rows[emitted.row].append(emitted.token)
    return rows


@pytest.fixture(scope="module")
def expected(theirs: Any, prompts: list[list[int]]) -> list[list[int]]:
    """What transformers gives for each prompt alone, up to the first tie."""
    rows = []
    for prompt in prompts:
        tokens_1T = torch.tensor([prompt])
        answer = theirs.generate(
            tokens_1T,
            attention_mask=torch.ones_like(tokens_1T),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best_T2 = torch.cat(answer.logits).topk(2, dim=-1).values
        ties = (best_T2[:, 0] - best_T2[:, 1] < MARGIN).tolist()
        certain = ties.index(True) if True in ties else NEW_TOKENS
        rows.append(answer.sequences[0, len(prompt) :].tolist()[:certain])
    assert sum(map(len, rows)) > 0.8 * NEW_TOKENS * len(prompts)
    return rows


def agree(rows: list[list[int]], expected: list[list[int]]) -> None:
    assert [row[: len(certain)] for row, certain in zip(rows, expected, strict=True)] == expected


@pytest.mark.parametrize("policy", POLICIES)
def test_greedy_equals_transformers(
    policy: str, model: Transformer, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    """A ragged batch, and each prompt alone: the answers are not all one token said over and over."""
    agree(continued(model, prompts, policy), expected)
    agree([continued(model, [prompt], policy)[0] for prompt in prompts], expected)
    assert len({token for row in expected for token in row}) > 10


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("chunk", [1, 3, 16, 39])
def test_chunks_of_reading_do_not_change_the_answer(
    policy: str, chunk: int, model: Transformer, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    agree(continued(model, prompts, policy, chunk=chunk), expected)


def test_reading_reports_its_progress(model: Transformer, prompts: list[list[int]]) -> None:
    cache = make_policy("full").start(model.config, model.position, len(prompts))
    progress = list(read(model, prompts, cache, 16))
    assert [(each.tokens, each.total) for each in progress] == [(16, 40), (32, 40), (40, 40)]
    assert [each.layout.lengths for each in progress] == [(1, 7, 16, 16), (0, 0, 16, 7), (0, 0, 8, 0)]
    assert cache.lengths == (1, 7, 40, 23)


def test_a_cache_that_has_read_goes_on(model: Transformer, prompts: list[list[int]]) -> None:
    """A text read before, then a prompt: as one text."""
    cache = make_policy("full").start(model.config, model.position, 1)
    for _ in read(model, [prompts[2][:25]], cache):
        pass
    rest = [emitted.token for emitted in generate(model, [prompts[2][25:]], cache, max_new_tokens=10)]
    assert rest == continued(model, [prompts[2]], max_new_tokens=10)[0]


@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_reading_knows_how_long_each_text_becomes(chunk: int, model: Transformer, prompts: list[list[int]]) -> None:
    """Positions that depend on the length turn for the whole prompt from its first chunk on, as without a cache."""
    config = dataclasses.replace(model.config, position=DynamicOptions(factor=2.0), max_positions=16)
    stretched = Transformer(config, seed=None).requires_grad_(False)
    stretched.load_state_dict(model.state_dict())
    cache = make_policy("full").start(config, stretched.position, len(prompts))
    rows: list[list[torch.Tensor]] = [[] for _ in prompts]
    for progress in read(stretched, prompts, cache, chunk):
        for row, length in enumerate(progress.layout.lengths or ()):
            rows[row].append(progress.hidden_BTE[row, :length])
    for row, prompt in enumerate(prompts):
        expected_TE = stretched.hidden(torch.tensor([prompt])).last_BTE[0]
        torch.testing.assert_close(torch.cat(rows[row]), expected_TE, atol=1e-5, rtol=0)
    # More of a text makes it longer.
    assert next(read(stretched, prompts, cache, chunk)).layout.totals == (2, 14, 80, 46)


def test_rows_end_at_a_stop_token_and_the_others_go_on(model: Transformer, prompts: list[list[int]]) -> None:
    free = continued(model, prompts)
    stop = free[1][4]
    rows: list[list[int]] = [[] for _ in prompts]
    last: list[list[bool]] = [[] for _ in prompts]
    cache = make_policy("full").start(model.config, model.position, len(prompts))
    for emitted in generate(model, prompts, cache, max_new_tokens=NEW_TOKENS, stop_ids=[stop, 5000]):
        rows[emitted.row].append(emitted.token)
        last[emitted.row].append(emitted.is_last)
    for row, whole, flags in zip(rows, free, last, strict=True):
        end = whole.index(stop) + 1 if stop in whole else NEW_TOKENS
        assert row == whole[:end]
        assert flags == [False] * (end - 1) + [True]
    assert len(rows[1]) <= 5


def test_rows_that_end_one_after_the_other_leave_the_batch(model: Transformer, prompts: list[list[int]]) -> None:
    """Every row stops at a token of its own; what is left is still each row's own answer."""
    free = continued(model, prompts)
    stops = {free[0][2], free[1][6], free[3][12]}
    rows = continued(model, prompts, stop_ids=tuple(stops))
    for row, whole in zip(rows, free, strict=True):
        ends = [place for place, token in enumerate(whole) if token in stops]
        assert row == (whole[: ends[0] + 1] if ends else whole)


def test_as_many_tokens_as_asked_for(model: Transformer, prompts: list[list[int]]) -> None:
    for number in (1, 2, 9):
        assert [len(row) for row in continued(model, prompts, max_new_tokens=number)] == [number] * len(prompts)


def test_tokens_arrive_as_they_are_made(model: Transformer, prompts: list[list[int]]) -> None:
    """Whoever stops asking stops the work."""
    cache = make_policy("full").start(model.config, model.position, 1)
    stream = generate(model, [prompts[1]], cache, max_new_tokens=1000)
    for _ in range(3):
        next(stream)
    assert cache.lengths == (7 + 2,)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_a_seed_gives_one_answer_alone_or_in_a_batch(
    temperature: float, model: Transformer, prompts: list[list[int]]
) -> None:
    sampling = Sampling(temperature, seed=5)
    together = continued(model, prompts, sampling=sampling)
    assert continued(model, prompts, sampling=sampling) == together
    assert [continued(model, [prompt], sampling=sampling)[0] for prompt in prompts] == together
    assert continued(model, prompts[::-1], sampling=sampling) == together[::-1]
    assert continued(model, prompts, sampling=Sampling(temperature, seed=6)) != together
    assert continued(model, prompts) != together


@pytest.mark.parametrize(
    ("prompts", "rows", "options", "message"),
    [
        ([[1], []], 2, {}, "prompt 1 is empty"),
        ([[1, 97]], 1, {}, "prompt 0 has token 97, but the model knows 0 to 96"),
        ([[1], [3, -1]], 2, {}, "prompt 1 has token -1"),
        ([[1]], 2, {}, "1 prompts for a cache of 2 rows"),
        ([], 1, {}, "0 prompts for a cache of 1 rows"),
        ([[1]], 1, {"max_new_tokens": 0}, "max_new_tokens=0"),
        ([[1]], 1, {"chunk": 0}, "chunk=0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_read(
    prompts: list[list[int]], rows: int, options: dict[str, Any], message: str, model: Transformer
) -> None:
    cache = make_policy("full").start(model.config, model.position, rows)
    with pytest.raises(ValueError, match=message):
        next(generate(model, prompts, cache, **{"max_new_tokens": 3, **options}))
    assert cache.lengths == (0,) * rows


@pytest.mark.parametrize("policy", POLICIES)
def test_only_the_last_states_are_those_of_all(model: Transformer, prompts: list[list[int]], policy: str) -> None:
    whole, last = (make_policy(policy).start(model.config, model.position, len(prompts)) for _ in range(2))
    pairs = zip(read(model, prompts, whole, 16), read(model, prompts, last, 16, only_last=True), strict=True)
    for everything, only in pairs:
        assert only.layout.lengths is not None
        for row, length in enumerate(only.layout.lengths):
            if length:
                torch.testing.assert_close(only.hidden_BTE[row, 0], everything.hidden_BTE[row, length - 1])
    assert whole.lengths == last.lengths
