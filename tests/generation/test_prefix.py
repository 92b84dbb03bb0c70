"""Models that read what they continue in both directions: a cache gives what a forward without one does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from handscroll.generation import BeamSearch, Sampling, beam_search, generate, read, samples
from handscroll.generation.frames import Blank, Frame, framed
from handscroll.kvcache import make_policy
from handscroll.model import Layout, ModelConfig, Transformer
from handscroll.model.position import AlibiOptions, DynamicOptions, Learned2dOptions, PositionOptions, Rope2dOptions

VOCABULARY, NEW = 40, 8
CASES: dict[str, dict[str, Any]] = {
    "rope": {},
    "alibi": {"position": AlibiOptions()},
    "dynamic": {"position": DynamicOptions(factor=2.0), "max_positions": 12},
    "windowed": {"sliding_window": 5, "windowed_from": 1},
}
READERS = [
    {"policy": "full"},
    {"policy": "offloaded", "inner": "full"},
]
PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9], [2, 7, 1, 8], [7]]


def make_model(**changes: Any) -> Transformer:
    config = ModelConfig(VOCABULARY, 24, 2, 4, 2, 6, 32, 64, qkv_bias=True, mask="prefix")
    model = Transformer(dataclasses.replace(config, **changes), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


def without_cache(model: Transformer, ids: list[int], frame: Frame) -> torch.Tensor:
    layout = framed(Layout.rows([len(ids)]), [frame])
    return model(torch.tensor([ids]), layout)[0]


@torch.no_grad()
def greedy(model: Transformer, prompt: list[int], frame: Frame) -> list[int]:
    told: list[int] = []
    for _ in range(NEW):
        told.append(int(without_cache(model, [*prompt, *told], frame)[-1].argmax()))
    return told


def continued(model: Transformer, policy: dict[str, Any], **options: Any) -> list[list[int]]:
    cache = make_policy(policy).start(model.config, model.position, len(PROMPTS))
    rows: list[list[int]] = [[] for _ in PROMPTS]
    for each in generate(model, PROMPTS, cache, **{"max_new_tokens": NEW, **options}):
        rows[each.row].append(each.token)
    return rows


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("policy", READERS, ids=["full", "offloaded"])
def test_a_prompt_is_the_prefix(case: str, policy: dict[str, Any]) -> None:
    model = make_model(**CASES[case])
    expected = [greedy(model, prompt, Frame(len(prompt))) for prompt in PROMPTS]
    assert continued(model, policy) == expected
    # However small the chunks, a prefix is read at one go.
    assert continued(model, policy, chunk=2) == expected
    both, one = (without_cache(model, PROMPTS[0], Frame(prefix))[-1] for prefix in (len(PROMPTS[0]), 0))
    assert not torch.allclose(both, one, atol=1e-3)


def test_hidden_states_of_a_prefix() -> None:
    model = make_model()
    cache = make_policy("full").start(model.config, model.position, 1)
    frames = [Frame(6)]
    states = [step.hidden_BTE for step in read(model, [PROMPTS[0]], cache, 2, frames=frames)]
    expected = model.hidden(torch.tensor([PROMPTS[0]]), framed(Layout.rows([13]), frames)).last_BTE
    torch.testing.assert_close(torch.cat(states, 1), expected, rtol=0, atol=1e-5)
    assert [state.shape[1] for state in states] == [6, 6, 1]


@pytest.mark.parametrize("policy", ["block_memory", "attention_sinks", "heavy_hitters", "snapkv"])
def test_who_forgets_while_reading_is_refused(policy: str) -> None:
    model = make_model()
    cache = make_policy(policy).start(model.config, model.position, len(PROMPTS))
    with pytest.raises(ValueError, match=r"both directions \(mask=prefix\).*use full"):
        next(generate(model, PROMPTS, cache, max_new_tokens=1))


TWO_AXES = [Rope2dOptions(), Learned2dOptions()]


def blank_model(position: PositionOptions = TWO_AXES[0]) -> Transformer:
    return make_model(position=position, head_width=8)


# A blank (39) at the end of one row and within another, and a start token (38).
BLANKS = [[3, 1, 4, 39, 38], [2, 39, 7, 1, 8, 2, 8, 38]]
FRAMES = [Frame(4, Blank(3, 4)), Frame(7, Blank(1, 7))]


def test_positions_of_a_blank() -> None:
    layout = framed(Layout.rows([6, 9]), FRAMES)
    assert layout.positions_BTP[0, :6].tolist() == [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [3, 2]]
    assert layout.positions_BTP[1].tolist() == [*([n, 0] for n in range(7)), [1, 1], [1, 2]]
    assert layout.prefix_BT is not None
    assert layout.prefix_BT.tolist() == [[4], [7]]


@torch.no_grad()
@pytest.mark.parametrize("position", TWO_AXES)
def test_filling_a_blank_with_and_without_a_cache(position: PositionOptions) -> None:
    model = blank_model(position)
    expected = [greedy(model, ids, frame) for ids, frame in zip(BLANKS, FRAMES, strict=True)]
    cache = make_policy("full").start(model.config, model.position, 2)
    rows: list[list[int]] = [[], []]
    for each in generate(model, BLANKS, cache, max_new_tokens=NEW, frames=FRAMES):
        rows[each.row].append(each.token)
    assert rows == expected
    # A row that has ended leaves the batch: the other's frame stays its own.
    cache = make_policy("full").start(model.config, model.position, 2)
    stop = expected[0][0]
    rows = [[], []]
    for each in generate(model, BLANKS, cache, max_new_tokens=NEW, frames=FRAMES, stop_ids=[stop]):
        rows[each.row].append(each.token)
    assert rows[0] == [stop]
    assert rows[1] == expected[1][: len(rows[1])]


@torch.no_grad()
def test_beams_and_samples_of_a_blank() -> None:
    model, (ids, frame) = blank_model(), (BLANKS[1], FRAMES[1])

    def logprob(told: list[int]) -> float:
        logprobs = without_cache(model, [*ids, *told[:-1]], frame)[len(ids) - 1 :].log_softmax(-1)
        return float(logprobs.gather(1, torch.tensor(told)[:, None]).sum())

    cache = make_policy("full").start(model.config, model.position, 1)
    best = beam_search(model, ids, cache, BeamSearch(4), max_new_tokens=4, frame=frame)
    assert best[0].score * 4 == pytest.approx(logprob(best[0].tokens), rel=1e-4)
    assert logprob(best[0].tokens) >= logprob(greedy(model, ids, frame)[:4]) - 1e-4
    cache = make_policy("full").start(model.config, model.position, 1)
    told: list[list[int]] = [[], []]
    sums = [0.0, 0.0]
    for each in samples(model, ids, cache, 2, max_new_tokens=4, sampling=Sampling(1.0, 3), frame=frame):
        told[each.row].append(each.token)
        assert each.logprobs is not None
        sums[each.row] += each.logprobs.chosen
    for tokens, total in zip(told, sums, strict=True):
        assert total == pytest.approx(logprob(tokens), rel=1e-4)


def test_a_model_of_blanks_reads_no_text_plainly() -> None:
    model = blank_model()
    cache = make_policy("full").start(model.config, model.position, 1)
    with pytest.raises(ValueError, match="fills blanks"):
        next(generate(model, [[1, 2]], cache, max_new_tokens=1))
