"""`attention_sinks` against a slow reference, and what only it promises."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from handscroll.kvcache import AttentionSinks, SlidingWindow
from handscroll.model import Capture, Layout, ModelConfig, RopeOptions, Transformer
from handscroll.model.position import (
    AlibiOptions,
    DynamicAlibiOptions,
    DynamicOptions,
    LongRopeOptions,
    RelativeOptions,
    YarnOptions,
    make_position,
)
from handscroll.model.slots import PositionOptions

HEADS, KV_HEADS, WIDTH = 4, 2, 8
CONFIG = ModelConfig(97, 32, 1, HEADS, KV_HEADS, WIDTH, 32, 64)
POLICIES = {
    "plain": AttentionSinks(sinks=4, window=20, tile=8),
    "odd": AttentionSinks(sinks=3, window=17, tile=7),
    "paper": AttentionSinks(sinks=4, window=20, tile=1),
    "no_sinks": AttentionSinks(sinks=0, window=20, tile=8),
    "many_sinks": AttentionSinks(sinks=30, window=5, tile=8),
}
# YaRN multiplies scores; LongRoPE's window of 20 is shorter than what is attended to, the others' isn't.
POSITIONS = {
    "rope": RopeOptions(),
    "yarn": YarnOptions(factor=4.0, original_max_positions=16),
    "dynamic": DynamicOptions(factor=2.0),
    "longrope": LongRopeOptions(short_factor=(1.0,) * 4, long_factor=(1.0, 2.0, 3.0, 4.0), original_max_positions=20),
    "alibi": AlibiOptions(),
    "dynamic_alibi": DynamicAlibiOptions(),
}
LENGTH = 150


def held(policy: AttentionSinks, now: int) -> list[int]:
    """What a query at `now` sees, straight from the description."""
    sizes = policy.sizes(CONFIG.max_positions)
    tile_start = now - now % sizes.tile
    return [index for index in range(now + 1) if index < sizes.sinks or index >= tile_start - sizes.window]


@pytest.mark.parametrize("chunks", [[LENGTH], [1] * LENGTH, [50, 7, 1, 1, 13, 78]], ids=["whole", "single", "mixed"])
@pytest.mark.parametrize("options", POSITIONS.values(), ids=POSITIONS)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_equals_the_slow_reference(policy: AttentionSinks, options: PositionOptions, chunks: list[int]) -> None:
    """Each query alone: dense attention over the keys that it sees, each turned at its place among them."""
    config = dataclasses.replace(CONFIG, position=options)
    position = make_position(config)
    (layer,) = policy.start(config, position, 1).layers
    generator = torch.Generator().manual_seed(0)
    query_1HTD = torch.randn(1, HEADS, LENGTH, WIDTH, generator=generator)
    key_1KTD, value_1KTD = torch.randn(2, 1, KV_HEADS, LENGTH, WIDTH, generator=generator)
    start, outs = 0, []
    for chunk in chunks:
        span = slice(start, start + chunk)
        layout = Layout.rows([chunk], [start], totals=[LENGTH])
        outs.append(layer.attend(query_1HTD[:, :, span], key_1KTD[:, :, span], value_1KTD[:, :, span], layout).out_BHTD)
        start += chunk
    expected_HTD = torch.empty(HEADS, LENGTH, WIDTH)
    length = torch.tensor(policy.sizes(CONFIG.max_positions).attended)
    for now in range(LENGTH):
        seen = held(policy, now)
        key_KSD = position.rotate(key_1KTD[:, :, seen], position.rotation(torch.arange(len(seen)), length))[0]
        last = position.rotation(torch.tensor([len(seen) - 1]), length)
        query_HD = position.rotate(query_1HTD[:, :, now : now + 1], last)[0, :, 0]
        bias_H1S = position.bias(torch.tensor([len(seen) - 1]), torch.arange(len(seen)), length)
        for head in range(HEADS):
            scores_S = key_KSD[head // 2] @ query_HD[head] / math.sqrt(WIDTH)
            weights_S = (scores_S if bias_H1S is None else scores_S + bias_H1S[head, 0]).softmax(0)
            expected_HTD[head, now] = weights_S @ value_1KTD[0, head // 2, seen]
    torch.testing.assert_close(torch.cat(outs, dim=2)[0], expected_HTD, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunks", [[1] * 60, [10, 6, 1, 14, 29]], ids=["single", "mixed"])
@pytest.mark.parametrize("options", POSITIONS.values(), ids=POSITIONS)
def test_until_the_budget_is_full_positions_turn_by_the_length_of_the_text(
    options: PositionOptions, chunks: list[int]
) -> None:
    """At every length a layer equals the text read from its beginning, as with `full`."""
    config = dataclasses.replace(CONFIG, position=options)
    model = Transformer(config, seed=1).eval().requires_grad_(False)
    tokens_2T = torch.randint(97, (2, 60), generator=torch.Generator().manual_seed(0))
    cache = AttentionSinks().start(config, model.position, 2)
    start = 0
    for chunk in chunks:
        end = start + chunk
        close(model(tokens_2T[:, start:end], cache=cache), model(tokens_2T[:, :end])[:, start:])
        start = end


@pytest.mark.parametrize("relative", [False, True])
def test_a_tile_of_one_without_sinks_is_a_sliding_window(model: Transformer, relative: bool) -> None:
    """Through all layers: distances are the same, and only they matter to rotary and to relative positions."""
    if relative:
        model = Transformer(dataclasses.replace(CONFIG, num_layers=2, position=RelativeOptions()), seed=1)
        for parameter in model.requires_grad_(False).position.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) / 4
    tokens_2T = torch.randint(97, (2, 300), generator=torch.Generator().manual_seed(0))
    sinks = AttentionSinks(sinks=0, window=20, tile=1).start(model.config, model.position, 2)
    window = SlidingWindow(window=21).start(model.config, model.position, 2)
    close(model(tokens_2T, cache=sinks), model(tokens_2T, cache=window))


def test_without_sinks_each_place_in_a_tile_has_the_sliding_window_that_reaches_as_far() -> None:
    """In one layer; deeper ones read what the windows of other places have made."""
    config = dataclasses.replace(CONFIG, max_positions=32)
    model = Transformer(config, seed=1).eval().requires_grad_(False)
    tokens_1T = torch.randint(97, (1, 100), generator=torch.Generator().manual_seed(0))
    logits_1TV = model(tokens_1T, cache=AttentionSinks(0, 20, tile=8).start(config, model.position, 1))
    for place in range(8):
        window = SlidingWindow(window=20 + place + 1).start(config, model.position, 1)
        close(logits_1TV[:, place::8], model(tokens_1T, cache=window)[:, place::8])


def test_sinks_are_seen_from_anywhere_and_what_is_between_is_not(model: Transformer) -> None:
    """A token that is changed matters, or changes nothing; 300 is further back than two layers reach."""
    tokens_1T = torch.randint(97, (1, 400), generator=torch.Generator().manual_seed(0))
    policy = AttentionSinks(sinks=4, window=20)
    expected_V = model(tokens_1T, cache=policy.start(model.config, model.position, 1))[0, -1]
    for changed, matters in ((3, True), (4, False), (300, False), (390, True)):
        other_1T = tokens_1T.clone()
        other_1T[0, changed] = (other_1T[0, changed] + 1) % 97
        logits_V = model(other_1T, cache=policy.start(model.config, model.position, 1))[0, -1]
        assert (float((logits_V - expected_V).abs().max()) > 1e-3) == matters


@pytest.mark.parametrize("chunk", [1, 25, 400])
def test_memory_is_bounded_whatever_the_chunks(model: Transformer, chunk: int) -> None:
    """By sinks, window and two tiles: the latest one, and one for going back."""
    cache = AttentionSinks(sinks=4, window=20, tile=8).start(model.config, model.position, 2)
    for _ in range(800 // chunk):
        model.hidden(torch.zeros(2, chunk, dtype=torch.int64), cache=cache)
    slot = 2 * 2 * model.config.num_layers * model.config.num_kv_heads * model.config.head_width * 4
    assert cache.bytes() == (slot * (4 + 20 + 2 * 8), 0)


def test_no_query_attends_to_more_than_the_trained_window(model: Transformer) -> None:
    """Slots of the spare tile are held, but have no weight; each tile's last query sees all that is allowed."""
    cache = AttentionSinks().start(model.config, model.position, 2)
    model.hidden(torch.zeros(2, 1000, dtype=torch.int64), Layout.rows([1000, 700]), cache)
    layout = Layout.rows([90, 90], cache.lengths, capture=Capture(weights=True))
    for weights_BHTS in model.hidden(torch.zeros(2, 90, dtype=torch.int64), layout, cache).weights:
        seen_BHT = (weights_BHTS > 0).sum(-1)
        assert int(seen_BHT.max()) == model.config.max_positions
        assert int(seen_BHT.min()) == model.config.max_positions - 16 + 1


def test_truncation_goes_back_by_a_tile_at_any_time_and_further_is_refused(model: Transformer) -> None:
    tokens_1T = torch.randint(97, (1, 230), generator=torch.Generator().manual_seed(0))
    policy = AttentionSinks(sinks=4, window=40, tile=16)
    whole = policy.start(model.config, model.position, 1)
    model.hidden(tokens_1T[:, :200], cache=whole)
    for length in range(200, 230):
        model.hidden(tokens_1T[:, length : length + 1], cache=whole)
        back = whole.select([0])
        back.truncate([length + 1 - 16])
        anew = policy.start(model.config, model.position, 1)
        model.hidden(tokens_1T[:, : length + 1 - 16], cache=anew)
        close(model(tokens_1T[:, :20], cache=back), model(tokens_1T[:, :20], cache=anew))
    with pytest.raises(ValueError, match=r"dropped those from 4 to 168, and from 104 on they would be needed; read"):
        whole.truncate([150])
    assert whole.lengths == (230,)
    # Within the sinks nothing is missing, however far it is.
    for length in (4, 2, 0):
        back = whole.select([0])
        back.truncate([length])
        text_1T = torch.cat((tokens_1T[:, :length], tokens_1T[:, 100:140]), dim=1)
        close(model(tokens_1T[:, 100:140], cache=back), model(text_1T)[:, length:])


def test_rows_that_were_truncated_apart_go_on_apart(model: Transformer) -> None:
    """Rows of equal length that have dropped different tokens don't share a mask."""
    tokens_2T = torch.randint(97, (2, 200), generator=torch.Generator().manual_seed(0))
    policy = AttentionSinks(sinks=4, window=40, tile=16)
    cache = policy.start(model.config, model.position, 2)
    model.hidden(tokens_2T[:, :165], Layout.rows([165, 159]), cache)
    cache.truncate([159, 159])
    apart = [policy.start(model.config, model.position, 1) for _ in range(2)]
    for row, alone in enumerate(apart):
        model.hidden(tokens_2T[row : row + 1, :159], cache=alone)
    for step in range(159, 200):
        logits_2V = model(tokens_2T[:, step : step + 1], cache=cache)[:, 0]
        for row, alone in enumerate(apart):
            close(logits_2V[row], model(tokens_2T[row : row + 1, step : step + 1], cache=alone)[0, 0])


def test_a_few_that_ask_get_what_they_get_among_all_far_past_the_window(model: Transformer) -> None:
    """Rows of any length, places in several tiles, padding: and the weights of those that ask, too."""
    tokens_3T = torch.randint(97, (3, 300), generator=torch.Generator().manual_seed(0))
    lengths, places_3Q = [300, 170, 40], torch.tensor([[299, 3, 150, 299], [169, 0, 100, 101], [39, 1, 20, 39]])
    layout = Layout.rows(lengths, capture=Capture(weights=True))
    policy = AttentionSinks(sinks=4, window=40)
    whole, some = (policy.start(model.config, model.position, 3) for _ in range(2))
    expected, found = model.hidden(tokens_3T, layout, whole), model.hidden(tokens_3T, layout, some, places_3Q)
    rows = torch.arange(3)[:, None]
    close(found.last_BTE, expected.last_BTE[rows, places_3Q])
    close(found.weights[-1].transpose(1, 2), expected.weights[-1].transpose(1, 2)[rows, places_3Q])


def test_sizes_follow_the_trained_window_and_must_fit_in_it() -> None:
    sizes = AttentionSinks().sizes(512)
    assert (sizes.sinks, sizes.window, sizes.tile, sizes.attended) == (4, 444, 64, 512)
    assert AttentionSinks().sizes(128).tile == 16
    with pytest.raises(ValueError, match=r"sinks 4 \+ window 500 \+ tile 64 = 568 tokens, but .* trained on 512"):
        AttentionSinks(window=500).sizes(512)
    with pytest.raises(ValueError, match="choose fewer sinks"):
        AttentionSinks(sinks=512).sizes(512)


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=2e-5, rtol=0)
