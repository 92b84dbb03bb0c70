"""Policies that keep some tokens only, against slow references that loop over heads and tokens; what they promise."""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from handscroll.kvcache import HeavyHitters, PerHeadBudget, SnapKV, make_policy
from handscroll.kvcache.per_head_budget import by_best
from handscroll.kvcache.prompt_layer import PromptLayer
from handscroll.model import Layout, ModelConfig, RopeOptions, Transformer
from handscroll.model.position import (
    AlibiOptions,
    DynamicAlibiOptions,
    DynamicOptions,
    LongRopeOptions,
    Position,
    Relative,
    RelativeLayer,
    RelativeOptions,
    Rotation,
    YarnOptions,
    make_position,
    of_layer,
)
from handscroll.model.slots import PositionOptions

HEADS, KV_HEADS, WIDTH, TILE = 4, 2, 8, 8
CONFIG = ModelConfig(97, 32, 1, HEADS, KV_HEADS, WIDTH, 32, 64)
LENGTH = 100
OPTIONS = {
    "rope": RopeOptions(),
    "yarn": YarnOptions(factor=4.0, original_max_positions=16),
    "alibi": AlibiOptions(),
    "longrope": LongRopeOptions(short_factor=(1.0,) * 4, long_factor=(1.0, 2.0, 3.0, 4.0), original_max_positions=20),
    "relative": RelativeOptions(),
}


def some(length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (1, H, T, D), keys and values (1, K, T, D); scores are far from even."""
    generator = torch.Generator().manual_seed(seed)
    query_1HTD = 2 * torch.randn(1, HEADS, length, WIDTH, generator=generator)
    key_1KTD, value_1KTD = torch.randn(2, 1, KV_HEADS, length, WIDTH, generator=generator)
    return query_1HTD, key_1KTD, value_1KTD


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=2e-5, rtol=0)


def position_of(options: PositionOptions) -> Position:
    """Weights of relative positions are far from the zeros that they begin with."""
    position = make_position(dataclasses.replace(CONFIG, position=options))
    if isinstance(position, Relative):
        generator = torch.Generator().manual_seed(4)
        for parameter in position.requires_grad_(False).parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return position


class Reader:
    """One query at a time over the tokens that a kv head keeps, each turned where it stands, within a `window`."""

    def __init__(
        self, position: Position, length: int, query_1HTD: Tensor, key_1KTD: Tensor, value_1KTD: Tensor, window: int = 0
    ):
        self.position, self.length, self.window = of_layer(position, 0), torch.tensor(length), window
        self.query_1HTD, self.key_1KTD, self.value_1KTD = query_1HTD, key_1KTD, value_1KTD

    def turned(self, x_1XTD: Tensor, places: list[int]) -> Tensor:
        return self.position.rotate(x_1XTD, self.position.rotation(torch.tensor(places), self.length))[0]

    def weights(self, head: int, now: int, kept: list[int], places: list[int]) -> Tensor:
        """(S,): those of the query at `now` over the kept tokens."""
        kv_head = head // (HEADS // KV_HEADS)
        key_SD = self.turned(self.key_1KTD[:, kv_head : kv_head + 1, kept], places)[0]
        query_1HTD = self.query_1HTD[:, :, now : now + 1]
        query_HTD = self.turned(query_1HTD, places[-1:])
        near = (torch.tensor(places[-1:]), torch.tensor(places))
        added_HTS = self.position.bias(*near, self.length)
        if isinstance(self.position, RelativeLayer):
            query_HTD, added_HTS = self.position.asked(query_1HTD)[0], self.position.said(query_1HTD, *near)[0]
        scores_S = key_SD @ query_HTD[head, 0] / math.sqrt(WIDTH)
        scores_S = scores_S if added_HTS is None else scores_S + added_HTS[head, 0]
        if self.window:
            scores_S = scores_S.masked_fill(near[0] - near[1] >= self.window, float("-inf"))
        return scores_S.softmax(0)


@pytest.mark.parametrize("chunks", [[LENGTH], [1] * LENGTH, [30, 7, 1, 1, 13, 48]], ids=["whole", "single", "mixed"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("where", ["cache", "text"])
def test_heavy_hitters_equals_the_slow_reference(where: str, options: PositionOptions, chunks: list[int]) -> None:
    config = dataclasses.replace(CONFIG, position=options)
    policy, position, heavy, recent = HeavyHitters(10, 12, where), position_of(options), 10, 12
    (layer,) = policy.start(config, position, 1).layers
    given = some(LENGTH)
    outs, start = [], 0
    for chunk in chunks:
        parts = [x_1XTD[:, :, start : start + chunk] for x_1XTD in given]
        outs.append(layer.attend(*parts, Layout.rows([chunk], [start], totals=[LENGTH])).out_BHTD)
        start += chunk
    longest = heavy + recent + TILE if where == "cache" else LENGTH
    reader, expected_HTD = Reader(position, longest, *given), torch.empty(HEADS, LENGTH, WIDTH)
    for kv_head in range(KV_HEADS):
        kept: list[int] = []
        received: dict[int, float] = {}
        for now in range(LENGTH):
            if now % TILE == 0 and len(kept) > heavy + recent:
                best = sorted(kept[:-recent], key=lambda index: received[index])[-heavy:]
                kept = sorted(best) + kept[-recent:]
            kept.append(now)
            received[now] = 0.0
            for head in (2 * kv_head, 2 * kv_head + 1):
                weights_S = reader.weights(head, now, kept, kept if where == "text" else list(range(len(kept))))
                expected_HTD[head, now] = weights_S @ given[2][0, kv_head, kept]
                for index, weight in zip(kept, weights_S.tolist(), strict=True):
                    received[index] += weight / 2
    close(torch.cat(outs, dim=2)[0], expected_HTD)


def observed(pooling: str, kernel: int) -> Callable[[Reader, list[int], list[int], int], list[float]]:
    def scores(reader: Reader, kept: list[int], voters: list[int], kv_head: int) -> list[float]:
        votes = received(reader, kept, voters[-OBSERVATION:], kv_head)
        pooled = []
        for place in range(len(votes)):
            around = votes[max(0, place - kernel // 2) : place + kernel // 2 + 1]
            pooled.append(max(around) if pooling == "max" else sum(around) / kernel)
        return pooled

    return scores


def received(reader: Reader, kept: list[int], voters: list[int], kv_head: int) -> list[float]:
    votes = dict.fromkeys(kept, 0.0)
    for now in voters:
        seen = [index for index in kept if index <= now]
        for head in (2 * kv_head, 2 * kv_head + 1):
            for index, weight in zip(seen, reader.weights(head, now, seen, seen).tolist(), strict=True):
                votes[index] += weight / 2
    return [votes[index] for index in kept[:-OBSERVATION]]


def key_norm(reader: Reader, kept: list[int], voters: list[int], kv_head: int) -> list[float]:
    norms = [float(reader.key_1KTD[0, kv_head, index].norm()) for index in kept[:-OBSERVATION]]
    return [sum(norms) / len(norms) / norm for norm in norms]


OBSERVATION = 6
RULES = {
    "snapkv": (SnapKV(20, None, OBSERVATION, 3), observed("max", 3), lambda scores, number: [number] * KV_HEADS),
    "snapkv_average": (
        SnapKV(None, 0.3, OBSERVATION, 5, "average"),
        observed("average", 5),
        lambda scores, number: [number] * KV_HEADS,
    ),
    "observed": (PerHeadBudget(20, None, OBSERVATION), observed("max", 7), lambda s, n: by_best(s, n, 0.2)),
    "received": (PerHeadBudget(20, None, OBSERVATION, "received", 0.0), received, lambda s, n: by_best(s, n, 0.0)),
    "key_norm": (PerHeadBudget(None, 0.4, OBSERVATION, "key_norm"), key_norm, lambda s, n: by_best(s, n, 0.2)),
}


# Past 64 tokens the dynamic ones turn, and weigh, all keys anew; a window of 50 hides some kept keys.
OTHERS = {
    "alibi": {"position": AlibiOptions()},
    "dynamic_alibi": {"position": DynamicAlibiOptions()},
    "dynamic": {"position": DynamicOptions(factor=2.0)},
    "relative": {"position": RelativeOptions()},
    "window": {"sliding_window": 50},
    "alibi_window": {"position": AlibiOptions(), "sliding_window": 50},
}
PROMPTS = [(name, "rope", chunk) for name in RULES for chunk in (100, 7)]
PROMPTS += [(name, kind, 7) for name in ("snapkv", "observed") for kind in OTHERS]
PROMPTS += [("received", "alibi", 100), ("key_norm", "relative", 7)]


@pytest.mark.parametrize(("name", "kind", "chunk"), PROMPTS)
def test_what_stays_of_a_prompt_equals_the_slow_reference(name: str, kind: str, chunk: int) -> None:
    """A prompt of 60 tokens, 5 that are generated, a second prompt of 30, and 5 more."""
    policy, scores_of, allot = RULES[name]
    config, given = dataclasses.replace(CONFIG, **OTHERS.get(kind, {})), some(LENGTH, 1)
    position = position_of(config.position)
    (layer,) = policy.start(config, position, 1).layers
    outs, start = [], 0
    forwards = [(0, 60, chunk), (60, 65, 1), (65, 95, chunk), (95, 100, 1)]
    for first, last, step in forwards:
        for start in range(first, last, step):
            stop = min(last, start + step)
            layout = Layout.rows([stop - start], [start], totals=None if step == 1 else [last])
            outs.append(layer.attend(*(x_1XTD[:, :, start:stop] for x_1XTD in given), layout).out_BHTD)
    window = config.sliding_window or 0
    reader, expected_HTD = Reader(position, LENGTH, *given, window), torch.empty(HEADS, LENGTH, WIDTH)
    kept: list[list[int]] = [[] for _ in range(KV_HEADS)]
    for first, last, step in forwards:
        for now in range(first, last):
            reader.length = torch.tensor(now + 1 if step == 1 else last)
            for head in range(HEADS):
                mine = [*kept[head // 2], *range(first, now + 1)]
                weights_S = reader.weights(head, now, mine, mine)
                expected_HTD[head, now] = weights_S @ given[2][0, head // 2, mine]
        kept = [[*mine, *range(first, last)] for mine in kept]
        if step > 1:
            voters, budget = list(range(first, last)), policy.budget or math.ceil(policy.share * last)
            scores = [scores_of(reader, mine, voters, kv_head) for kv_head, mine in enumerate(kept)]
            numbers = allot([torch.tensor(each) for each in scores], budget - OBSERVATION)
            assert sum(numbers) == KV_HEADS * (budget - OBSERVATION)
            for kv_head, (mine, number) in enumerate(zip(kept, numbers, strict=True)):
                best = sorted(range(len(mine) - OBSERVATION), key=lambda place: -scores[kv_head][place])[:number]
                kept[kv_head] = [mine[place] for place in sorted(best)] + mine[-OBSERVATION:]
    close(torch.cat(outs, dim=2)[0], expected_HTD)


@pytest.mark.parametrize(
    ("held", "among_best", "number", "floor", "numbers"),
    [
        # Algorithm 2: (1 - floor) * the head's own among the best + floor * an even budget.
        ([40, 40, 40], [25, 5, 0], 10, 0.2, [22, 6, 2]),
        ([40, 40, 40], [25, 5, 0], 10, 0.0, [25, 5, 0]),
        ([40, 40, 40], [25, 5, 0], 10, 1.0, [10, 10, 10]),
        # 10.4, 5.6 and 2 of 18: what is left goes to the head that was cut most.
        ([40, 40, 40], [12, 6, 0], 6, 0.2, [11, 6, 1]),
        # A head that has fewer than its part leaves the rest to others; all that is held fits.
        ([40, 3, 40], [27, 3, 0], 10, 0.5, [20, 3, 7]),
        ([4, 3, 5], [4, 3, 5], 10, 0.2, [4, 3, 5]),
    ],
)
def test_heads_share_a_budget_as_ada_kv_says(
    held: list[int], among_best: list[int], number: int, floor: float, numbers: list[int]
) -> None:
    """As many scores above the others' as shall be among the best."""
    scores = [
        torch.cat((1 + torch.rand(best), torch.rand(all_ - best))) for all_, best in zip(held, among_best, strict=True)
    ]
    assert by_best(scores, number, floor) == numbers


@pytest.mark.parametrize("policy", [SnapKV(40), PerHeadBudget(40)], ids=str)
def test_a_planted_key_stays(policy: SnapKV | PerHeadBudget) -> None:
    """The last query asks for the key at 13, in one head: it and its neighbours stay there."""
    query_1HTD, key_1KTD, value_1KTD = some(90)
    position = make_position(CONFIG)
    # Turned back from where they stand, they meet head-on; the other queries ask for nothing in particular.
    cosine, sine = position.rotation(torch.tensor([13, 89]))
    key_D, query_D = position.rotate(torch.ones(1, 1, 2, WIDTH), Rotation(cosine, -sine))[0, 0]
    query_1HTD *= 0.1
    key_1KTD[0, 1, 13], query_1HTD[0, 3, 89] = key_D, 20 * query_D
    (layer,) = policy.start(CONFIG, position, 1).layers
    layer.attend(query_1HTD, key_1KTD, value_1KTD, Layout.rows([90]))
    assert isinstance(layer, PromptLayer)
    store = layer.parts[-1].store
    assert store.value_BKSD is not None
    value_SD = store.value_BKSD[0, -1, : store.used]
    assert all((value_SD == value_1KTD[0, 1, place]).all(-1).any() for place in range(10, 17))


def test_heads_hold_what_their_layer_was_promised_and_differ() -> None:
    (layer,) = PerHeadBudget(share=0.25, floor=0.1).start(CONFIG, make_position(CONFIG), 1).layers
    layer.attend(*some(400, 3), Layout.rows([400]))
    assert isinstance(layer, PromptLayer)
    held = [part.store.used for part in layer.parts]
    assert sum(held) == KV_HEADS * 100
    assert len(set(held)) == KV_HEADS
    assert layer.bytes() == (sum(held) * WIDTH * 4 * 2, 0)


@pytest.mark.parametrize("model", ["grouped"], indirect=True)
@pytest.mark.parametrize("chunk", [1, 25, 400])
def test_heavy_hitters_hold_their_budget_and_a_tile_whatever_the_chunks(model: Transformer, chunk: int) -> None:
    """And the queries of a tile, which have yet to vote, and a sum for each key."""
    cache = HeavyHitters(20, 30).start(model.config, model.position, 2)
    for _ in range(400 // chunk):
        model.hidden(torch.zeros(2, chunk, dtype=torch.int64), cache=cache)
    model.hidden(torch.zeros(2, 15, dtype=torch.int64), cache=cache)
    config, rows = model.config, 2 * model.config.num_layers
    slots = rows * config.num_kv_heads * (2 * config.head_width * (20 + 30 + 16) + 20 + 30)
    assert cache.bytes() == (4 * (slots + rows * config.num_heads * config.head_width * 15), 0)


@pytest.mark.parametrize("model", ["grouped"], indirect=True)
@pytest.mark.parametrize("positions", ["cache", "text"])
def test_heavy_hitters_go_back_within_a_tile(model: Transformer, positions: str) -> None:
    tokens_1T = torch.randint(97, (1, 230), generator=torch.Generator().manual_seed(0))
    policy = HeavyHitters(20, 30, positions)
    whole, anew = (policy.start(model.config, model.position, 1) for _ in range(2))
    model.hidden(tokens_1T[:, :190], cache=whole)
    model.hidden(tokens_1T[:, :177], cache=anew)
    with pytest.raises(ValueError, match=r"truncated to 175 tokens: heavy_hitters dropped tokens after 176, and those"):
        whole.truncate([175])
    assert whole.lengths == (190,)
    whole.truncate([177])
    close(model(tokens_1T[:, 177:], cache=whole), model(tokens_1T[:, 177:], cache=anew))


@pytest.mark.parametrize("model", ["grouped"], indirect=True)
@pytest.mark.parametrize("name", ["snapkv", "per_head_budget"])
def test_what_was_generated_can_be_forgotten_and_a_shortened_prompt_cannot(model: Transformer, name: str) -> None:
    tokens_1T = torch.randint(97, (1, 130), generator=torch.Generator().manual_seed(0))
    whole, anew = (make_policy(name).start(model.config, model.position, 1) for _ in range(2))
    for cache, generated in ((whole, 10), (anew, 3)):
        model.hidden(tokens_1T[:, :100], cache=cache)
        for place in range(100, 100 + generated):
            model.hidden(tokens_1T[:, place : place + 1], cache=cache)
    whole.truncate([103])
    close(model(tokens_1T[:, 103:], cache=whole), model(tokens_1T[:, 103:], cache=anew))
    with pytest.raises(ValueError, match=rf"truncated to 99 tokens: {name} dropped tokens at 130, and those"):
        whole.truncate([99])


def test_no_query_of_heavy_hitters_attends_beyond_the_trained_window() -> None:
    sizes = HeavyHitters().sizes(512)
    assert (sizes.heavy, sizes.recent, sizes.tile, sizes.attended) == (224, 224, 64, 512)
    assert HeavyHitters(heavy=100).sizes(512).recent == 348
    assert HeavyHitters(recent=100).sizes(512).heavy == 348
    with pytest.raises(ValueError, match=r"heavy 400 \+ recent 100 \+ tile 64 = 564 tokens, but .* trained on 512"):
        HeavyHitters(400, 100).sizes(512)
    assert HeavyHitters(400, 100, "text").sizes(512).attended == 564


@pytest.mark.parametrize(
    "named", ["snapkv", "per_head_budget", {"policy": "heavy_hitters", "positions": "text"}], ids=str
)
@pytest.mark.parametrize("model", ["grouped_alibi"], indirect=True)
def test_where_kept_keys_stood_is_saved_and_joined(model: Transformer, named: Any) -> None:
    tokens_BT = torch.randint(97, (2, 140), generator=torch.Generator().manual_seed(0))
    policy = make_policy(named)
    together, alone, anew = (policy.start(model.config, model.position, rows) for rows in (2, 1, 2))
    model.hidden(tokens_BT, cache=together)
    model.hidden(tokens_BT[1:], cache=alone)
    joined = together.select([0]).join(alone)
    anew.restore(copy.deepcopy(together.state()), model.device)
    expected = model(tokens_BT[:, :9], cache=together)
    close(model(tokens_BT[:, :9], cache=joined), expected)
    close(model(tokens_BT[:, :9], cache=anew), expected)


def test_rows_that_keep_as_many_keys_of_other_lengths_stand_elsewhere() -> None:
    """Both rows hold 20 slots, whose queries come at 30 and at 50 of their texts."""
    model = Transformer(dataclasses.replace(CONFIG, position=RelativeOptions()), seed=0)
    model.position = position_of(RelativeOptions())
    policy, tokens_BT = SnapKV(budget=20, observation=4), torch.arange(2 * 53).view(2, 53) % 97
    together, *alone = (policy.start(model.config, model.position, rows) for rows in (2, 1, 1))
    model.hidden(tokens_BT[:, :50], Layout.rows([30, 50]), together)
    found = model.hidden(tokens_BT[:, 50:], Layout.rows([3, 3], [30, 50]), together).last_BTE
    for row, (length, cache) in enumerate(zip((30, 50), alone, strict=True)):
        model.hidden(tokens_BT[row : row + 1, :length], cache=cache)
        close(model.hidden(tokens_BT[row : row + 1, 50:], cache=cache).last_BTE, found[row : row + 1])
