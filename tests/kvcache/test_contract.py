"""What every cache policy promises, run over every entry of `POLICIES`."""

import gc

import numpy as np
import pytest
import torch
from torch import Tensor

from handscroll.kvcache import POLICIES, AttentionSinks, BlockMemory, SlidingWindow, describe, make_policy
from handscroll.model import Bytes, Cache, Capture, Layout, Transformer

TOLERANCE = 2e-5
VARIANTS = {
    "full": "full",
    "sliding_window": "sliding_window",
    "segment_recurrence": "segment_recurrence",
    "segment_recurrence_odd": {"policy": "segment_recurrence", "segment": 7, "memory": 90},
    "attention_sinks": "attention_sinks",
    "attention_sinks_odd": {"policy": "attention_sinks", "sinks": 3, "window": 80, "tile": 7},
    "heavy_hitters": {"policy": "heavy_hitters", "heavy": 50},
    "heavy_hitters_text": {"policy": "heavy_hitters", "heavy": 80, "recent": 30, "positions": "text"},
    "snapkv": {"policy": "snapkv", "budget": 100},
    "per_head_budget": {"policy": "per_head_budget", "budget": 100},
    "per_head_budget_received": {"policy": "per_head_budget", "budget": 90, "observation": 5, "scorer": "received"},
    "offloaded_heavy_hitters": {"policy": "offloaded", "recent": 5, "inner": "heavy_hitters"},
    "offloaded_snapkv": {"policy": "offloaded", "recent": 0, "inner": {"policy": "snapkv", "budget": 100}},
    "block_memory": {"policy": "block_memory", "window": 40},
    "block_memory_key_norm": {"policy": "block_memory", "window": 40, "representative": "key_norm"},
    "block_memory_attended": {"policy": "block_memory", "window": 40, "representative": "attended"},
    "block_memory_mean": {"policy": "block_memory", "window": 40, "representative": "mean"},
    "block_memory_all": {"policy": "block_memory", "window": 40, "representative": "all"},
    "offloaded": {"policy": "offloaded", "recent": 16},
    "offloaded_window": {"policy": "offloaded", "recent": 5, "inner": "sliding_window"},
    "offloaded_sinks": {"policy": "offloaded", "recent": 0, "to": "file", "inner": "attention_sinks"},
    "offloaded_blocks": {"policy": "offloaded", "to": "file", "inner": {"policy": "block_memory", "window": 40}},
    "quantized": {"policy": "quantized", "recent": 512},
    "block_memory_bounds": {"policy": "block_memory", "window": 40, "representative": "bounds"},
    "block_memory_per_head": {"policy": "block_memory", "window": 40, "selection": "per_head"},
    "block_memory_dense": {"policy": "block_memory", "window": 40, "dense_layers": 1},
    "block_memory_local": {"policy": "block_memory", "window": 40, "local_layers": 1},
    "block_memory_sentences": {"policy": "block_memory", "window": 40, "cut": "sentences"},
    "block_memory_odd": {"policy": "block_memory", "block_size": 5, "sinks": 3, "blocks": 4, "tile": 12, "window": 50},
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


def start(variant: str, model: Transformer, rows: int) -> Cache:
    return make_policy(VARIANTS[variant]).start(model.config, model.position, rows)


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=TOLERANCE, rtol=0)


def feed(model: Transformer, cache: Cache, tokens_BT: Tensor, chunks: list[int]) -> Tensor:
    pieces = tokens_BT.split(chunks, dim=1)
    return torch.cat([model(piece, cache=cache) for piece in pieces], dim=1)


def test_every_policy_has_a_variant_here() -> None:
    assert set(POLICIES) <= set(VARIANTS)


@pytest.mark.parametrize("chunks", [[80], [1] * 80, [33, 1, 1, 45], [16, 64]])
def test_equals_no_cache_when_the_budget_covers_the_text(
    variant: str, model: Transformer, tokens_BT: Tensor, chunks: list[int]
) -> None:
    # The odd variant attends to at most 3 + 4 * 5 + 50 + 12 tokens; 80 tokens fit all of them.
    tokens_BT = tokens_BT[:, :80]
    close(feed(model, start(variant, model, 3), tokens_BT, chunks), model(tokens_BT))


def test_wanted_places_are_those_of_the_whole(variant: str, model: Transformer, tokens_BT: Tensor) -> None:
    """Whoever asks in the last layer, the same is remembered: reading on gives the same, too."""
    lengths, wanted_BQ = [100, 64, 3], torch.tensor([[99, 5], [63, 0], [2, 1]])
    layout = Layout.rows(lengths)
    rows = torch.arange(3)[:, None]
    whole, some = start(variant, model, 3), start(variant, model, 3)
    expected_BQE = model.hidden(tokens_BT[:, :100], layout, whole).last_BTE[rows, wanted_BQ]
    close(model.hidden(tokens_BT[:, :100], layout, some, wanted_BQ).last_BTE, expected_BQE)
    close(model(tokens_BT[:, 100:], cache=some), model(tokens_BT[:, 100:], cache=whole))


def test_ragged_rows_equal_each_row_alone(variant: str, model: Transformer, tokens_BT: Tensor) -> None:
    lengths = [40, 7, 1]
    cache = start(variant, model, 3)
    logits_BTV = model(tokens_BT[:, :40], Layout.rows(lengths), cache)
    for row, length in enumerate(lengths):
        close(logits_BTV[row, :length], model(tokens_BT[row : row + 1, :length])[0])
    for step in range(20):
        next_B1 = torch.stack([tokens_BT[row, length + step] for row, length in enumerate(lengths)])[:, None]
        logits_B1V = model(next_B1, cache=cache)
        for row, length in enumerate(lengths):
            close(logits_B1V[row, 0], model(tokens_BT[row : row + 1, : length + step + 1])[0, -1])
    assert cache.lengths == (60, 27, 21)


def test_a_row_that_gets_nothing_is_left_as_it_was(variant: str, model: Transformer, tokens_BT: Tensor) -> None:
    cache = start(variant, model, 2)
    model(tokens_BT[:2, :30], cache=cache)
    model(tokens_BT[:2, 30:35], Layout.rows([5, 0], [30, 30]), cache)
    logits_BTV = model(torch.stack((tokens_BT[0, 35:37], tokens_BT[1, 30:32])), cache=cache)
    close(logits_BTV[0], model(tokens_BT[:1, :37])[0, -2:])
    close(logits_BTV[1], model(tokens_BT[1:2, :32])[0, -2:])


def test_long_ragged_rows_equal_each_row_alone(variant: str, model: Transformer) -> None:
    """Far past the trained window, at the same chunk boundaries: nothing leaks between rows."""
    generator = torch.Generator().manual_seed(5)
    rows = [torch.randint(97, (length,), generator=generator) for length in (300, 220)]
    together = start(variant, model, 2)
    padded_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    model(padded_BT, Layout.rows([300, 220]), together)
    alone = [start(variant, model, 1) for _ in rows]
    for cache, tokens_T in zip(alone, rows, strict=True):
        model(tokens_T[None], cache=cache)
    for token in range(40):
        logits_BTV = model(torch.full((2, 1), token), cache=together)
        for row, cache in enumerate(alone):
            close(logits_BTV[row], model(torch.full((1, 1), token), cache=cache)[0])


@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if policy.chunk_invariant])
def test_chunk_invariant_policies_ignore_the_callers_chunks(name: str, model: Transformer) -> None:
    tokens_1T = torch.randint(97, (1, 400), generator=torch.Generator().manual_seed(7))
    outputs = [
        feed(model, make_policy(name).start(model.config, model.position, 1), tokens_1T, chunks)
        for chunks in ([400], [1] * 400, [150, 1, 99, 150])
    ]
    close(outputs[1], outputs[0])
    close(outputs[2], outputs[0])


def test_truncate_equals_never_having_read(variant: str, model: Transformer, tokens_BT: Tensor) -> None:
    cache = start(variant, model, 3)
    model(tokens_BT[:, :75], cache=cache)
    cache.truncate([60, 75, 20])
    assert cache.lengths == (60, 75, 20)
    logits_BTV = model(
        torch.stack([tokens_BT[row, length : length + 3] for row, length in enumerate((60, 75, 20))]), cache=cache
    )
    for row, length in enumerate((60, 75, 20)):
        close(logits_BTV[row], model(tokens_BT[row : row + 1, : length + 3])[0, -3:])


def test_truncate_refuses_lengths_that_do_not_exist(variant: str, model: Transformer, tokens_BT: Tensor) -> None:
    cache = start(variant, model, 3)
    model(tokens_BT[:, :10], cache=cache)
    with pytest.raises(ValueError, match="row 1 can't be truncated to 11 tokens: it holds 10"):
        cache.truncate([10, 11, 10])
    with pytest.raises(ValueError, match="2 lengths for a cache of 3 rows"):
        cache.truncate([1, 2])
    assert cache.lengths == (10, 10, 10)


def test_select_reorders_drops_and_repeats(variant: str, model: Transformer, tokens_BT: Tensor) -> None:
    cache = start(variant, model, 3)
    lengths = [60, 41, 20]
    model(tokens_BT[:, :60], Layout.rows(lengths), cache)
    chosen = cache.select([2, 0, 0])
    logits_BTV = model(torch.tensor([[5], [6], [7]]), cache=chosen)
    for place, (row, token) in enumerate(((2, 5), (0, 6), (0, 7))):
        text_T = torch.cat((tokens_BT[row, : lengths[row]], torch.tensor([token])))
        close(logits_BTV[place, 0], model(text_T[None])[0, -1])
    assert cache.lengths == tuple(lengths)
    # The original goes on as if nothing had been asked of its copy.
    logits_BTV = model(torch.tensor([[8]] * 3), cache=cache)
    close(logits_BTV[1, 0], model(torch.cat((tokens_BT[1, :41], torch.tensor([8])))[None])[0, -1])
    with pytest.raises(ValueError, match="row 3 does not exist"):
        cache.select([3])


def test_forks_of_a_long_text_do_not_disturb_each_other(variant: str, model: Transformer) -> None:
    generator = torch.Generator().manual_seed(11)
    text_1T = torch.randint(97, (1, 333), generator=generator)
    tails_2T = torch.randint(97, (2, 70), generator=generator)
    cache = start(variant, model, 1)
    model(text_1T, cache=cache)
    forks = cache.select([0, 0])
    model(tails_2T[:, :40], cache=forks)
    together = torch.cat([model(tails_2T[:, step : step + 1], cache=forks) for step in range(40, 70)], dim=1)
    for row in (1, 0):
        fork = cache.select([0])
        model(tails_2T[row : row + 1, :40], cache=fork)
        alone = torch.cat(
            [model(tails_2T[row : row + 1, step : step + 1], cache=fork) for step in range(40, 70)], dim=1
        )
        close(together[row], alone[0])


def test_what_was_read_in_inference_mode_goes_on_outside_of_it(
    variant: str, model: Transformer, tokens_BT: Tensor
) -> None:
    cache = start(variant, model, 3)
    with torch.inference_mode():
        model(tokens_BT[:, :70], cache=cache)
        fork = cache.select([0, 1, 2])
    for each in (cache, fork):
        close(model(tokens_BT[:, 70:73], cache=each), model(tokens_BT[:, :73])[:, 70:])
        cache.truncate([60] * 3)


def test_bytes_reported_are_the_bytes_held(variant: str, model: Transformer) -> None:
    def tensor_bytes(thing: object, seen: set[int]) -> int:
        """Bytes of every tensor storage that is reachable from a cache but not from the model or its rotations."""
        total = 0
        stack = [thing]
        while stack:
            item = stack.pop()
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, Tensor):
                total += item.untyped_storage().nbytes()
            elif isinstance(item, np.ndarray):
                total += item.nbytes
            elif not isinstance(item, type):
                stack.extend(gc.get_referents(item))
        return total

    cache = start(variant, model, 2)
    assert cache.bytes() == Bytes(0, 0)
    model(torch.randint(97, (2, 300), generator=torch.Generator().manual_seed(0)), cache=cache)
    held = 0
    for layer in cache.layers:
        for part in getattr(layer, "parts", [layer]):
            held += sum(tensor_bytes(getattr(part, name, None), set()) for name in ("store", "_buffers", "kept"))
        held += sum(tensor_bytes(getattr(layer, name, None), set()) for name in ("queries", "received"))
    assert sum(cache.bytes()) == held > 0


def test_captured_weights_sum_to_one_and_explain_the_output(
    variant: str, model: Transformer, tokens_BT: Tensor
) -> None:
    cache = start(variant, model, 3)
    model(tokens_BT[:, :20], cache=cache)
    layout = Layout.rows([4] * 3, cache.lengths, capture=Capture(weights=True))
    hidden = model.hidden(tokens_BT[:, 20:24], layout, cache)
    direct = model.hidden(tokens_BT[:, :24], Layout.rows([24] * 3, capture=Capture(weights=True)))
    for cached_BHTS, direct_BHTS in zip(hidden.weights, direct.weights, strict=True):
        close(cached_BHTS.sum(-1), torch.ones(cached_BHTS.shape[:-1]))
        close(cached_BHTS[..., :24], direct_BHTS[:, :, 20:])


def test_what_is_described_makes_the_same_policy() -> None:
    for policy in (
        SlidingWindow(77),
        AttentionSinks(sinks=0, tile=1),
        BlockMemory(blocks=3, representative="mean"),
        BlockMemory(selection="per_head", local_layers=1, dense_layers=2, device_blocks=4),
        make_policy({"policy": "per_head_budget", "share": 0.5, "scorer": "key_norm"}),
        make_policy("full"),
    ):
        assert make_policy(describe(policy)) == policy


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("fulll", "unknown cache policy 'fulll': known are full, sliding_window, attention_sinks, heavy_hitters"),
        ({"policy": "full", "window": 3}, "full has no option 'window'"),
        ({"policy": "sliding_window", "window": -1}, "window=-1"),
        ({"policy": "attention_sinks", "sinks": -1}, "sinks=-1: a number of tokens, 0 or more"),
        ({"policy": "attention_sinks", "window": 0}, "window=0: attention_sinks needs at least 1"),
        ({"policy": "attention_sinks", "tile": 0}, "tile=0"),
        ({"policy": "heavy_hitters", "heavy": 0}, "heavy=0: heavy_hitters needs at least 1"),
        ({"policy": "heavy_hitters", "positions": "book"}, "positions='book': known are cache, text"),
        ({"policy": "snapkv", "budget": 100, "share": 0.5}, "budget=100 and share=0.5: snapkv takes one of them"),
        ({"policy": "snapkv", "budget": 32}, r"budget=32: the last 32 tokens \(observation\) always stay"),
        ({"policy": "snapkv", "share": 0.0}, "share=0.0: a part of the text"),
        ({"policy": "snapkv", "observation": 0}, "observation=0"),
        ({"policy": "snapkv", "kernel": 4}, "kernel=4: an odd number"),
        ({"policy": "snapkv", "pooling": "sum"}, "pooling='sum': known are max, average"),
        ({"policy": "per_head_budget", "scorer": "best"}, "scorer='best': known are observed, received, key_norm"),
        ({"policy": "per_head_budget", "floor": 1.5}, "floor=1.5: a part of an even budget, 0 to 1"),
        ({"policy": "block_memory", "blocks": 0}, "blocks=0"),
        ({"policy": "block_memory", "representative": "best"}, "representative='best': known are key_norm"),
        ({"policy": "block_memory", "sinks": -1}, "sinks=-1"),
        ({"policy": "block_memory", "recency": 0}, "recency=0.0: more than 0, at most 1"),
        ({"policy": "block_memory", "recency": 1.5}, "recency=1.5"),
        ({"policy": "block_memory", "selection": "mine"}, "selection='mine': Input should be 'shared' or 'per_head'"),
        ({"policy": "block_memory", "window": "wide"}, "window='wide': Input should be a valid integer"),
        ({"policy": "quantized", "bits": 4.5}, "bits=4.5: Input should be a valid integer"),
        ({"policy": "block_memory", "dense_layers": -1}, "dense_layers=-1: block_memory needs at least 0"),
        ({"policy": "block_memory", "device_blocks": 3}, "device_blocks=3: 0, or at least the 4 blocks"),
    ],
)
def test_bad_options_are_refused_by_name(named: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(named)  # type: ignore[arg-type]
