"""Models whose attention sees a text in its own way read it through `full` as they do without a cache."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from handscroll.kvcache import POLICIES, make_policy, usual_policy
from handscroll.kvcache.plan import Text
from handscroll.model import Cache, Capture, Layout, ModelConfig, Transformer
from handscroll.model.attention import (
    LinearAttentionOptions,
    LowRankOptions,
    PooledOptions,
    SparseOptions,
    attention_kind,
)
from handscroll.model.position import AlibiOptions, DynamicOptions, RelativeOptions, make_position
from handscroll.model.slots import AttentionOptions, PositionOptions, RopeOptions

CONFIG = ModelConfig(
    vocab_size=50,
    width=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_width=6,
    feedforward_width=32,
    max_positions=128,
)
SPARSE = SparseOptions(block=4, window=3, dilation=2, global_tokens=3, random_blocks=2)
WAYS: dict[str, AttentionOptions] = {
    "sliding": SparseOptions(block=4, window=6),
    "mixed": SPARSE,
    "blocks": SparseOptions(block=4, window=8, whole_blocks=True, global_tokens=5, random_blocks=1, seed=4),
    "linear": LinearAttentionOptions(),
    "pooled": PooledOptions(window=7, stride=4),
    "pooled_convolution": PooledOptions(window=3, stride=5, pooling="convolution"),
}
ROPE = RopeOptions()
TOKENS_BT = torch.randint(50, (2, 90), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def random_model(attention: AttentionOptions, position: PositionOptions = ROPE) -> Transformer:
    model = Transformer(dataclasses.replace(CONFIG, attention=attention, position=position), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


def start(model: Transformer, rows: int, policy: Any = "full") -> Cache:
    return make_policy(policy).start(model.config, model.position, rows)


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("chunks", "position"),
    [
        ([90], RopeOptions()),
        ([33, *[1] * 30, 27], RopeOptions()),
        ([33, 1, 1, 45, 10], AlibiOptions()),
        ([33, 1, 1, 45, 10], DynamicOptions(factor=4.0)),
    ],
    ids=str,
)
def test_any_portions_equal_no_cache(way: str, chunks: list[int], position: PositionOptions) -> None:
    if way == "linear" and position != RopeOptions():
        return
    model = random_model(WAYS[way], position)
    cache, outs = start(model, 2), []
    for piece_BT in TOKENS_BT.split(chunks, 1):
        layout = Layout.rows([piece_BT.shape[1]] * 2, cache.lengths, totals=[90, 90])
        outs.append(model(piece_BT, layout, cache))
    close(torch.cat(outs, 1), model(TOKENS_BT))


def test_long_portions_go_in_spans(way: str) -> None:
    model = random_model(WAYS[way])
    tokens_BT = torch.randint(50, (1, 700), generator=torch.Generator().manual_seed(3))
    cache = start(model, 1)
    outs = [model(piece_BT, cache=cache) for piece_BT in tokens_BT.split([9, 611, 80], 1)]
    close(torch.cat(outs, 1), model(tokens_BT))


def test_rows_of_different_lengths_equal_each_alone(way: str) -> None:
    model = random_model(WAYS[way])
    expected, cache = model(TOKENS_BT), start(model, 2)
    for sizes in ((40, 23), (1, 1), (30, 5), (1, 1), (18, 0)):
        piece_BT = torch.zeros(2, max(sizes), dtype=torch.long)
        starts = cache.lengths
        for row, (first, size) in enumerate(zip(starts, sizes, strict=True)):
            piece_BT[row, :size] = TOKENS_BT[row, first : first + size]
        out_BTV = model(piece_BT, Layout.rows(sizes, starts, size=max(sizes)), cache)
        for row, (first, size) in enumerate(zip(starts, sizes, strict=True)):
            close(out_BTV[row, :size], expected[row, first : first + size])


def test_select_join_and_save(way: str) -> None:
    model = random_model(WAYS[way])
    expected, cache = model(TOKENS_BT), start(model, 2)
    model(TOKENS_BT[:, :50], cache=cache)
    swapped = cache.select([1, 0])
    close(model(TOKENS_BT[[1, 0], 50:], cache=swapped), expected[[1, 0], 50:])
    both: Any = cache.select([1])
    both = both.join(cache.select([0]))
    close(model(TOKENS_BT[[1, 0], 50:], cache=both), expected[[1, 0], 50:])
    restored: Any = start(model, 2)
    held: Any = cache
    restored.restore(held.state(), torch.device("cpu"))
    close(model(TOKENS_BT[:, 50:], cache=restored), expected[:, 50:])
    empty: Any = start(model, 1)
    joined = empty.join(cache.select([0]))
    assert joined.lengths == (0, 50)


def test_truncated_texts_go_on_or_say_why_not(way: str) -> None:
    model = random_model(WAYS[way])
    expected, cache = model(TOKENS_BT), start(model, 2)
    model(TOKENS_BT[:, :50], cache=cache)
    if way == "linear":
        with pytest.raises(
            ValueError, match="row 1 can't be truncated to 49 tokens: linear attention has summed all 50"
        ):
            cache.truncate([50, 49])
    else:
        cache.truncate([50, 48])
        out_BTV = model(TOKENS_BT[:, [48, 49]], Layout.rows([0, 2], [50, 48], size=2), cache)
        close(out_BTV[1], expected[1, 48:50])
    if way.startswith("pooled"):
        for piece_BT in TOKENS_BT[:, 50:80].split(5, 1):
            cache.truncate(cache.lengths)
            model(piece_BT, Layout.rows([5, 5], cache.lengths), cache)
        with pytest.raises(ValueError, match="row 0 can't be truncated to 5 tokens: of what lies before"):
            cache.truncate([5, 5])
    cache.truncate([0, 0])
    close(model(TOKENS_BT, cache=cache), expected)


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in ("full", "quantized", "offloaded")])
def test_policies_that_would_choose_other_keys_refuse(name: str, way: str) -> None:
    kind = attention_kind(dataclasses.replace(CONFIG, attention=WAYS[way]))
    with pytest.raises(
        ValueError, match=f"{name} chooses keys for softmax attention.* trained with attention={kind}.*: use full"
    ):
        start(random_model(WAYS[way]), 1, name)


def test_sparse_attention_reads_quantized_and_offloaded_keys() -> None:
    model = random_model(SPARSE)
    expected = model(TOKENS_BT)
    for policy, tolerance in (
        ({"policy": "quantized", "recent": 8}, 0.3),
        ({"policy": "offloaded", "recent": 8}, 2e-5),
    ):
        cache = start(model, 2, policy)
        out_BTV = torch.cat([model(piece_BT, cache=cache) for piece_BT in TOKENS_BT.split(30, 1)], 1)
        torch.testing.assert_close(out_BTV, expected, atol=tolerance, rtol=0)


def test_what_can_be_kept_in_no_such_way_is_refused() -> None:
    for attention in (WAYS["linear"], WAYS["pooled"]):
        with pytest.raises(ValueError, match=r"attention=\w+: what this model keeps is neither quantized nor offl"):
            start(random_model(attention), 1, "quantized")
    with pytest.raises(
        ValueError, match=r"positions turn them anew as a text grows .* let the model read without a cache"
    ):
        start(random_model(WAYS["linear"], DynamicOptions(factor=4.0)), 1)
    model = Transformer(dataclasses.replace(CONFIG, attention=LowRankOptions(), mask="bidirectional"))
    with pytest.raises(ValueError, match="low-rank attention sees a text as a whole: no cache can continue one"):
        start(model, 1)
    linear = random_model(WAYS["linear"])
    with pytest.raises(ValueError, match="linear attention keeps no keys to give weights for"):
        linear(TOKENS_BT, Layout.rows([90, 90], capture=Capture(weights=True)), start(linear, 2))


def test_weights_are_those_of_no_cache() -> None:
    """Of sparse and pooled attention; a cache has pooled keys first, and of the window what it still holds."""
    for name in ("mixed", "pooled"):
        model = random_model(WAYS[name])
        cache = start(model, 2)
        model(TOKENS_BT[:, :60], cache=cache)
        layout = Layout.rows([30, 30], [60, 60], capture=Capture(weights=True))
        held = model.hidden(TOKENS_BT[:, 60:], layout, cache).weights[1]
        whole = model.hidden(TOKENS_BT, Layout.rows([90, 90], capture=Capture(weights=True))).weights[1][:, :, 60:]
        ours, theirs = ([sorted(row.tolist())[-10:] for row in each.flatten(0, 2)] for each in (held, whole))
        close(torch.tensor(ours), torch.tensor(theirs))


def test_linear_attention_holds_as_much_of_any_text() -> None:
    model = random_model(WAYS["linear"])
    cache = start(model, 1)
    sizes = []
    for _ in range(3):
        model(TOKENS_BT[:1], cache=cache)
        sizes.append(cache.bytes())
    assert sizes[0] == sizes[1] == sizes[2]


@pytest.mark.parametrize("tokens", [90, 700])
def test_what_is_planned_is_what_is_held(way: str, tokens: int) -> None:
    model = random_model(WAYS[way])
    tokens_BT = torch.randint(50, (2, tokens))
    cache, most = start(model, 2), 0
    for piece_BT in tokens_BT.split(40, 1):
        model(piece_BT, cache=cache)
        most = max(most, cache.bytes().device)
    assert make_policy("full").plan(model.config, Text(tokens, rows=2, chunk=40)).device == most


@pytest.mark.parametrize(
    ("changes", "usual"),
    [
        ({}, "block_memory"),
        ({"position": AlibiOptions()}, "block_memory"),
        ({"position": RelativeOptions()}, "full"),
        ({"attention": LinearAttentionOptions()}, "full"),
        ({"mask": "prefix"}, "full"),
    ],
    ids=str,
)
def test_what_a_model_remembers_by_where_nobody_says(changes: dict[str, Any], usual: str) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    assert usual_policy(config) == usual
    make_policy(usual).start(config, make_position(config), 2)
