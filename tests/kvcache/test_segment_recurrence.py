"""`segment_recurrence` is Transformer-XL's recurrence over hidden states, and forgets what it says it forgets."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from handscroll.kvcache import POLICIES, make_policy
from handscroll.kvcache.layered import LayeredCache
from handscroll.model import Capture, DirectMemory, Layout, ModelConfig, Transformer
from handscroll.model.layout import Asking
from handscroll.model.position import AlibiOptions, RelativeOptions, RopeOptions, of_layer

CONFIG = ModelConfig(97, 32, 2, 4, 2, 8, 48, max_positions=40, position=RelativeOptions())
SEGMENT, MEMORY, LENGTH = 12, 17, 70
TEXT_BT = torch.randint(97, (2, LENGTH), generator=torch.Generator().manual_seed(0))
CHUNKS = [[LENGTH], [1] * LENGTH, [5, 1, 40, 24], [12, 58]]
POSITIONS = {"relative": RelativeOptions(), "rope": RopeOptions(), "alibi": AlibiOptions()}


def made(**changes: Any) -> Transformer:
    model = Transformer(dataclasses.replace(CONFIG, **changes), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


def started(model: Transformer, rows: int = 2, **options: Any) -> LayeredCache:
    options = {"policy": "segment_recurrence", "segment": SEGMENT, "memory": MEMORY} | options
    return make_policy(options).start(model.config, model.position, rows)


def feed(model: Transformer, cache: Any, tokens_BT: Tensor, chunks: list[int]) -> Tensor:
    return torch.cat([model(piece, cache=cache) for piece in tokens_BT.split(chunks, dim=1)], dim=1)


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=2e-5, rtol=0)


def by_the_paper(model: Transformer, tokens_BT: Tensor) -> Tensor:
    """Logits, segment by segment: each layer's keys and values come of [the states it had before, its input]."""
    memories: list[Tensor | None] = [None] * len(model.layers)
    logits = []
    for first in range(0, tokens_BT.shape[1], SEGMENT):
        segment_BT = tokens_BT[:, first : first + SEGMENT]
        x_BTE, _ = model.embedding.embed(segment_BT, Layout.rows([segment_BT.shape[1]] * 2))
        for number, block in enumerate(model.layers):
            earlier = memories[number]
            both_BTE = x_BTE if earlier is None else torch.cat((earlier, x_BTE), dim=1)
            memories[number] = both_BTE[:, -MEMORY:]
            before, length = both_BTE.shape[1] - x_BTE.shape[1], both_BTE.shape[1]
            layout = Layout.rows([length] * 2, [first - before] * 2)
            places_BQ = torch.arange(before, length).expand(2, -1)
            memory = DirectMemory(of_layer(model.position, number), layout)
            x_BTE = block(both_BTE, memory, layout, Asking(places_BQ, layout.pick(places_BQ))).x_BTE
        last_BTE, _ = model.norm(x_BTE, layout)
        logits.append(model.logits(last_BTE))
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("chunks", CHUNKS, ids=lambda chunks: f"{len(chunks)} chunks")
@pytest.mark.parametrize("position", POSITIONS)
def test_is_the_papers_recurrence(position: str, chunks: list[int]) -> None:
    model = made(position=POSITIONS[position])
    close(feed(model, started(model), TEXT_BT, chunks), by_the_paper(model, TEXT_BT))


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"block_memory"}))
def test_relative_positions_cached_equal_uncached(policy: str) -> None:
    """Within what a policy holds, whatever the chunks; rows of any length; few that ask; weights."""
    model = made()
    options = {
        "offloaded": {"recent": 5},
        "quantized": {"recent": 99},
        "heavy_hitters": {"heavy": 30, "recent": 30, "positions": "text"},
        "snapkv": {"share": 1.0},
        "per_head_budget": {"share": 1.0},
    }
    named = {"policy": policy} | options.get(policy, {})
    tokens_BT = TEXT_BT[:, :40]
    expected = model(tokens_BT)
    for chunks in ([40], [1] * 40, [13, 1, 26]):
        close(feed(model, make_policy(named).start(model.config, model.position, 2), tokens_BT, chunks), expected)
    cache = make_policy(named).start(model.config, model.position, 2)
    model(tokens_BT[:, :20], Layout.rows([20, 9]), cache)
    next_BT = torch.stack((tokens_BT[0, 20:25], tokens_BT[1, 9:14]))
    weighing = Layout.rows([5, 5], cache.lengths, capture=Capture(weights=True))
    hidden = model.hidden(next_BT, weighing, cache.select([0, 1]))
    some = model.hidden(next_BT, Layout.rows([5, 5], cache.lengths), cache, torch.tensor([[4, 1]] * 2)).last_BTE
    for row, end in enumerate((25, 14)):
        whole = model.hidden(tokens_BT[row : row + 1, :end], Layout.rows([end], capture=Capture(weights=True)))
        close(hidden.last_BTE[row], whole.last_BTE[0, -5:])
        close(hidden.last_BTE[row, [4, 1]], some[row])
        close(hidden.weights[1][row, :, :, :end], whole.weights[1][0, :, -5:])


def test_who_does_not_know_relative_positions_is_refused() -> None:
    model = made(max_positions=128)
    with pytest.raises(ValueError, match="that block_memory leaves out: use full, sliding_window, segment_recurrence"):
        make_policy("block_memory").start(model.config, model.position, 1)


def test_forgets_what_no_layer_hands_on() -> None:
    """The last token's segment begins at 60; two layers reach 2 * 17 tokens before it, or one segment less."""
    model = made()
    other_BT = TEXT_BT.clone()
    other_BT[:, :19] = (other_BT[:, :19] + 1) % 97
    logits = [model(text_BT, cache=started(model)) for text_BT in (TEXT_BT, other_BT)]
    close(logits[0][:, -1], logits[1][:, -1])
    assert (logits[0][:, 40] - logits[1][:, 40]).abs().max() > 1e-3


def test_memory_is_bounded_and_going_back_has_its_limit() -> None:
    model = made()
    cache = started(model)
    sizes = []
    for step in range(30):
        model.hidden(torch.full((2, 9), step), cache=cache)
        sizes.append(cache.bytes().device)
    assert len(set(sizes[10:])) == 1
    with pytest.raises(ValueError, match="segment_recurrence has dropped all before"):
        cache.truncate([100, 269])
    cache.truncate([269, 268])
    assert cache.lengths == (269, 268)


@pytest.mark.parametrize("chunks", [[LENGTH], [9, 1, 60]], ids=str)
def test_the_models_own_window_holds(chunks: list[int]) -> None:
    model = made(sliding_window=10, windowed_from=1)
    cache = started(model, segment=30, memory=90)
    close(feed(model, cache, TEXT_BT, chunks), model(TEXT_BT))


@pytest.mark.parametrize(
    ("options", "sizes"),
    [({}, (20, 20)), ({"segment": 30}, (30, 10)), ({"segment": 50}, (50, 0)), ({"memory": 3}, (20, 3))],
)
def test_sizes_follow_the_trained_window(options: dict[str, int], sizes: tuple[int, int]) -> None:
    policy = make_policy({"policy": "segment_recurrence"} | options)
    assert policy.sizes(CONFIG.trained_window) == sizes  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "says"), [({"segment": 0}, "segment=0: .* at least 1"), ({"memory": -1}, "memory=-1")]
)
def test_bad_sizes_are_refused(options: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_policy({"policy": "segment_recurrence"} | options)
