"""Ways of attending against Longformer, against their equations written out, and packed, padded and cut short."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LongformerConfig
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from handscroll.model import Capture, Layout, ModelConfig, Transformer, load_model, save_model
from handscroll.model.attention import (
    LinearAttentionOptions,
    LowRankOptions,
    PooledOptions,
    SparseOptions,
    direct_memories,
    make_attention,
)
from handscroll.model.attention.pattern import drawn_blocks
from handscroll.model.attention.sparse import sparse_mask
from handscroll.model.position import (
    AlibiOptions,
    DynamicAlibiOptions,
    DynamicOptions,
    RelativeOptions,
    Rope2dOptions,
    make_position,
)
from handscroll.model.slots import AttentionOptions, NoPositionOptions, RopeOptions
from handscroll.training.batch import collate
from handscroll.training.token_rows import TokenRow

CONFIG = ModelConfig(
    vocab_size=50,
    width=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_width=6,
    feedforward_width=32,
    max_positions=64,
)
MIXED = SparseOptions(block=4, window=3, dilation=2, global_tokens=3, random_blocks=2, seed=1)
BLOCKS = SparseOptions(block=4, window=8, whole_blocks=True, global_tokens=4, random_blocks=1)
WAYS: list[tuple[AttentionOptions, str]] = [
    (SparseOptions(block=4, window=6), "causal"),
    (MIXED, "causal"),
    (BLOCKS, "causal"),
    (MIXED, "bidirectional"),
    (BLOCKS, "bidirectional"),
    (LinearAttentionOptions(), "causal"),
    (LinearAttentionOptions(), "bidirectional"),
    (LowRankOptions(rank=5, shared="none"), "bidirectional"),
    (LowRankOptions(rank=5, shared="key_value"), "bidirectional"),
    (PooledOptions(window=5, stride=3), "causal"),
    (PooledOptions(window=5, stride=3, pooling="convolution"), "causal"),
]


def random_model(attention: AttentionOptions, mask: str = "causal", **changes: Any) -> Transformer:
    model = Transformer(dataclasses.replace(CONFIG, attention=attention, mask=mask, **changes), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


def text(length: int) -> list[int]:
    return torch.randint(50, (length,), generator=torch.Generator().manual_seed(length)).tolist()


@pytest.mark.parametrize("heads", [2, 4, 3])
def test_a_window_with_global_tokens_is_longformers(heads: int) -> None:
    """Their self-attention with one set of projections for local and global: ours reads both with one."""
    width, window, length, num_global = 12 * heads, 8, 32, 2
    theirs = LongformerSelfAttention(
        LongformerConfig(hidden_size=width, num_attention_heads=heads, attention_window=[window]), layer_id=0
    ).eval()
    config = dataclasses.replace(
        CONFIG,
        width=width,
        num_heads=heads,
        num_kv_heads=heads,
        head_width=12,
        qkv_bias=True,
        mask="bidirectional",
        position=NoPositionOptions(),
        attention=SparseOptions(block=8, window=window // 2 + 1, global_tokens=num_global),
    )
    ours = make_attention(config)
    with torch.no_grad():
        for name, projection in (("q", "query"), ("k", "key"), ("v", "value")):
            module: Any = ours.get_submodule(name)
            module.weight.normal_(std=width**-0.5)
            module.bias.normal_()
            for each in (projection, f"{projection}_global"):
                getattr(theirs, each).load_state_dict(module.state_dict())
        ours.get_submodule("o").weight.copy_(torch.eye(width))  # type: ignore[operator]
    x_BTE = torch.randn(2, length, width)
    layout = Layout.rows([length, length - 5])
    is_padding_BT = layout.index_BT < 0
    is_global_BT = (torch.arange(length) < num_global).expand(2, -1)
    expected, *_ = theirs(
        x_BTE,
        attention_mask=torch.zeros(2, length).masked_fill(is_padding_BT, -10000.0).masked_fill(is_global_BT, 10000.0),
        is_index_masked=is_padding_BT,
        is_index_global_attn=is_global_BT,
        is_global_attn=True,
    )
    out_BTE, _ = ours(x_BTE, direct_memories(config, make_position(config), layout, 0.0)[0], layout)
    torch.testing.assert_close(out_BTE[~is_padding_BT], expected[~is_padding_BT], atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("options", [SparseOptions(block=4, window=6), MIXED, BLOCKS], ids=str)
def test_the_pattern_is_what_its_options_say(options: SparseOptions, causal: bool) -> None:
    """The definition, pair by pair."""
    length, size = 30, options.block
    count = -(-length // size)
    drawn = drawn_blocks(options, causal, torch.arange(count), torch.full((count,), count)).tolist()
    mask = sparse_mask(options, causal, Layout.rows([length]))[0]
    for query in range(length):
        for key in range(length):
            distance, blocks = abs(query - key), (query // size, key // size)
            near = distance < options.window * options.dilation and distance % options.dilation == 0
            if options.whole_blocks:
                near = abs(blocks[0] - blocks[1]) < options.window // size
            seen = near or min(query, key) < options.global_tokens or blocks[1] in drawn[blocks[0]]
            assert bool(mask[query, key]) == (seen and (key <= query or not causal)), (query, key)


def test_random_blocks_are_drawn_evenly_and_differ_by_seed() -> None:
    options = SparseOptions(random_blocks=3)
    number = torch.arange(4096)
    drawn = drawn_blocks(options, False, number, torch.full_like(number, 8))
    counts = drawn.flatten().bincount(minlength=8)
    assert (counts - 3 * 4096 / 8).abs().max() < 200
    earlier = drawn_blocks(options, True, number, number)
    assert (earlier < number[:, None]).all() and (earlier[0] == -1).all() and (earlier[1:] >= 0).all()
    other = drawn_blocks(dataclasses.replace(options, seed=1), False, number, torch.full_like(number, 8))
    assert (other != drawn).float().mean() > 0.8


@pytest.mark.parametrize("pooling", ["mean", "convolution"])
def test_pooled_attention_written_out(pooling: Any) -> None:
    """Query by query: stretches that ended before the window as one key each, everything later as it is."""
    options, length = PooledOptions(window=5, stride=3, pooling=pooling), 23
    config = dataclasses.replace(CONFIG, attention=options)
    position, attention = make_position(config), make_attention(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    query, key, value = (torch.randn(1, heads, length, 6, generator=generator) for heads in (4, 2, 2))
    layout = Layout.rows([length])
    memory = direct_memories(config, position, layout, 0.0)[0]
    out_BHTD, _ = attention.attend(memory, query, key, value, layout, None)  # type: ignore[operator]

    def pooled(x_LD: Tensor, name: str) -> Tensor:
        if pooling == "mean":
            return x_LD.mean(0)
        weight: Any = attention.get_submodule(name).weight
        return sum(weight[:, 6 * step : 6 * step + 6] @ x_LD[step] for step in range(3))  # type: ignore[return-value]

    def turned(x_D: Tensor, place: int) -> Tensor:
        return position.rotate(x_D.view(1, 1, 1, 6), position.rotation(torch.tensor([place])))[0, 0, 0]

    for place in (0, 4, 5, 6, 7, 8, 14, length - 1):
        whole = max(0, place - 5 + 1) // 3
        for head in (0, 3):
            k, v = key[0, head // 2], value[0, head // 2]
            stretches = [slice(3 * number, 3 * number + 3) for number in range(whole)]
            keys = [turned(pooled(k[each], "pool_k"), each.stop - 1) for each in stretches]
            keys += [turned(k[near], near) for near in range(3 * whole, place + 1)]
            values = [pooled(v[each], "pool_v") for each in stretches] + list(v[3 * whole : place + 1])
            weights = (torch.stack(keys) @ turned(query[0, head, place], place) / 6**0.5).softmax(0)
            expected = weights @ torch.stack(values)
            torch.testing.assert_close(out_BHTD[0, head, place], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [RopeOptions(), AlibiOptions()], ids=["rope", "alibi"])
def test_pooled_attention_in_spans_has_the_gradients_of_the_whole(options: Any) -> None:
    """Where weights are captured all queries are answered together, and nothing anew."""
    pooled = PooledOptions(window=20, stride=4)
    config = dataclasses.replace(CONFIG, attention=pooled, position=options, max_positions=300)
    generator, attention = torch.Generator().manual_seed(0), make_attention(config)
    given = [torch.randn(2, heads, 300, 6, generator=generator).requires_grad_() for heads in (4, 2, 2)]
    outs, gradients = [], []
    for weights in (False, True):
        layout = Layout.rows([300, 201], capture=Capture(weights=weights))
        memory = direct_memories(config, make_position(config), layout, 0.0)[0]
        out_BHTD, _ = attention.attend(memory, *given, layout, None)  # type: ignore[operator]
        real = [out_BHTD[0], out_BHTD[1, :, :201]]
        outs.append(torch.cat(real, 1))
        gradients.append(torch.autograd.grad(outs[-1].sin().sum(), given))
    torch.testing.assert_close(outs[0], outs[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shared", ["none", "heads", "key_value"])
def test_low_rank_attention_is_equation_7_of_linformer(shared: Any) -> None:
    """softmax(Q (E K)^T / sqrt(d)) F V for each head, of a text shorter than the matrices are wide."""
    config = dataclasses.replace(
        CONFIG,
        attention=LowRankOptions(rank=5, shared=shared),
        mask="bidirectional",
        position=NoPositionOptions(),
    )
    attention: Any = make_attention(config)
    query, key, value = (torch.randn(1, heads, 20, 6) for heads in (4, 2, 2))
    layout = Layout.rows([20])
    memory = direct_memories(config, make_position(config), layout, 0.0)[0]
    out_BHTD, _ = attention.attend(memory, query, key, value, layout, None)
    e = attention.e.weight
    f = e if shared == "key_value" else attention.f.weight
    assert e.shape == f.shape == ((10 if shared == "none" else 5), 64)
    assert len(list(attention.parameters())) == (5 if shared == "key_value" else 6)
    for head in range(4):
        own = slice(5 * (head // 2), 5 * (head // 2) + 5) if shared == "none" else slice(5)
        scores = query[0, head] @ (e[own, :20] @ key[0, head // 2]).T / 6**0.5
        expected = scores.softmax(-1) @ (f[own, :20] @ value[0, head // 2])
        torch.testing.assert_close(out_BHTD[0, head], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("position", [RopeOptions(), AlibiOptions(), DynamicAlibiOptions()], ids=str)
@pytest.mark.parametrize(("attention", "mask"), WAYS, ids=str)
def test_packed_documents_and_padded_rows_equal_each_text_alone(
    attention: AttentionOptions, mask: str, position: Any
) -> None:
    if position.adds_bias and isinstance(attention, LinearAttentionOptions | LowRankOptions):
        with pytest.raises(ValueError, match=r"position .*AlibiOptions adds to scores.*rope, learned or no positions"):
            random_model(attention, mask, position=position)
        return
    model = random_model(attention, mask, position=position, max_positions=64)
    windows = [[19, 3, 25], [40], [1, 11, 11]]
    rows = [[TokenRow(text(length)) for length in lengths] for lengths in windows]
    batch = collate(rows, 0)
    out_BTV = model(batch.tokens_BT, batch.layout)
    right = Layout.rows([sum(lengths) for lengths in windows])
    for row, lengths in enumerate(windows):
        start = 0
        for length in lengths:
            alone_TV = model(torch.tensor([text(length)]))[0]
            torch.testing.assert_close(out_BTV[row, start : start + length], alone_TV, atol=1e-5, rtol=1e-5)
            start += length
    padded_BT = batch.tokens_BT.clone()
    padded_BT[1, :40] = torch.tensor(text(40))
    torch.testing.assert_close(model(padded_BT, right)[1, :40], out_BTV[1, :40], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("attention", "mask"), WAYS, ids=str)
def test_no_gradient_from_padding_other_documents_or_later_tokens(attention: AttentionOptions, mask: str) -> None:
    config = dataclasses.replace(CONFIG, attention=attention, mask=mask)
    module = make_attention(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    layout = collate([[TokenRow(text(length)) for length in (13, 12)], [TokenRow(text(21))]], 0).layout
    x_BTE = torch.randn(2, 25, 24, requires_grad=True)
    out_BTE, _ = module(x_BTE, direct_memories(config, make_position(config), layout, 0.0)[0], layout)
    for seen_at in (15, 19):
        (grad_BTE,) = torch.autograd.grad(out_BTE[0, seen_at].sum() + out_BTE[1, 20].sum(), x_BTE, retain_graph=True)
        last = seen_at + 1 if mask == "causal" else 25
        assert not grad_BTE[0, :13].any() and not grad_BTE[0, last:].any() and not grad_BTE[1, 21:].any()
        assert grad_BTE[0, seen_at].any() and grad_BTE[1, 20].any()


@pytest.mark.parametrize(("attention", "mask"), WAYS, ids=str)
def test_recomputing_activations_changes_nothing(attention: AttentionOptions, mask: str) -> None:
    model = random_model(attention, mask).requires_grad_(True)
    tokens_BT = torch.tensor([text(30)])
    gradients = []
    for model.activation_checkpointing in (False, True):
        model.zero_grad()
        model(tokens_BT).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("attention", "mask"), WAYS, ids=str)
def test_a_folder_says_how_the_model_attends(attention: AttentionOptions, mask: str, tmp_path: Path) -> None:
    model = random_model(attention, mask)
    save_model(model, tmp_path / "model")
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    assert content["model_type"] == "handscroll"
    assert content["attention"].items() >= dataclasses.asdict(attention).items()
    loaded = load_model(tmp_path / "model")
    assert loaded.config == model.config
    assert torch.equal(loaded(torch.tensor([text(30)])), model(torch.tensor([text(30)])))


def test_convolutions_begin_as_the_mean() -> None:
    tokens_BT = torch.tensor([text(40)])
    mean, convolution = (
        Transformer(dataclasses.replace(CONFIG, attention=PooledOptions(window=5, stride=3, pooling=pooling)))  # type: ignore[arg-type]
        for pooling in ("mean", "convolution")
    )
    convolution.load_state_dict(mean.state_dict(), strict=False)
    torch.testing.assert_close(mean(tokens_BT), convolution(tokens_BT), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attention": LowRankOptions()},
            r"mask='causal': low-rank attention is for mask=bidirectional; use grouped_query",
        ),
        (
            {"attention": PooledOptions(), "mask": "bidirectional"},
            r"mask='bidirectional': pooled .* is for mask=causal",
        ),
        ({"attention": SparseOptions(), "mask": "prefix"}, r"mask='prefix': sparse .* mask=causal or bidirectional"),
        ({"attention": SparseOptions(), "sliding_window": 5}, r"sliding_window=5: sparse attention decides by itself"),
        (
            {"attention": SparseOptions(), "position": RelativeOptions()},
            r"position RelativeOptions adds to scores, which sparse .*: use rope, alibi, learned or no positions",
        ),
        (
            {"attention": LinearAttentionOptions(), "attention_dropout": 0.1},
            r"attention_dropout=0\.1: linear .*residual",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseOptions(window=0), r"window=0: a sparse pattern needs at least 1"),
        (lambda: SparseOptions(random_blocks=-1), r"random_blocks=-1: a sparse pattern needs at least 0"),
        (
            lambda: SparseOptions(window=100, whole_blocks=True),
            r"window=100 and dilation=1 make no whole blocks of block=64",
        ),
        (lambda: LowRankOptions(rank=0), r"rank=0: keys are projected to at least 1"),
        (lambda: LowRankOptions(shared="layers"), r"shared='layers' is not known; known: none, heads, key_value"),
        (lambda: PooledOptions(stride=0), r"stride=0: pooled attention needs at least 1"),
        (lambda: PooledOptions(pooling="max"), r"pooling='max' is not known; known: mean, convolution"),
    ],
)
def test_options_that_mean_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kernel", ["flash", "naive"])
def test_a_kernel_of_grouped_query_attention_is_refused(kernel: str) -> None:
    with pytest.raises(
        ValueError, match=rf"attention_kernel={kernel} computes grouped_query .* attention=sparse, with"
    ):
        random_model(MIXED).attend_by(kernel)


@pytest.mark.parametrize(("attention", "mask"), WAYS, ids=str)
def test_positions_in_two_axes_are_followed(attention: AttentionOptions, mask: str) -> None:
    """Moving all tokens on along the second axis changes nothing, moving them apart does."""
    model = random_model(attention, mask, position=Rope2dOptions(), head_width=8)
    tokens_BT, plain = torch.tensor([text(30)]), Layout.rows([30])
    second_BT = torch.arange(30)[None] % 7
    expected, moved, other = (
        model(tokens_BT, dataclasses.replace(plain, positions_BTP=torch.stack((plain.index_BT, axis_BT), -1)))
        for axis_BT in (second_BT, second_BT + 5, second_BT * 2)
    )
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(other, expected, atol=1e-3)


def test_a_text_longer_than_low_rank_matrices_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a text of 65 tokens: low-rank .* for 64 .max_positions.; cut it, or train"):
        random_model(LowRankOptions(), "bidirectional")(torch.tensor([text(65)]))


def test_positions_that_depend_on_the_length_are_followed() -> None:
    """A padded row turns as the text alone does."""
    position = DynamicOptions(factor=4.0)
    for attention in (MIXED, LinearAttentionOptions(), PooledOptions(window=5, stride=3)):
        model = random_model(attention, position=position, max_positions=16)
        tokens_BT = torch.tensor([text(40), text(25) + [0] * 15])
        out_BTV = model(tokens_BT, Layout.rows([40, 25]))
        torch.testing.assert_close(out_BTV[1, :25], model(tokens_BT[1:, :25])[0], atol=1e-5, rtol=1e-5)
