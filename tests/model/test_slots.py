"""One contract per slot, held by every variant of its dict, and each variant's values against somebody else's."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, T5Config
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5DenseGatedActDense

from handscroll.kvcache import make_policy
from handscroll.model import Attended, Capture, Layout, ModelConfig, RopeOptions, Transformer, load_model, save_model
from handscroll.model.attention import ATTENTION_KINDS, ATTENTIONS, direct_memories, make_attention
from handscroll.model.feedforward import FEEDFORWARDS
from handscroll.model.footprint import parameter_count
from handscroll.model.initialization import initialize
from handscroll.model.norm import NORMS, RunningNorm
from handscroll.model.options import read_options
from handscroll.model.position import (
    POSITION_KINDS,
    POSITIONS,
    AlibiOptions,
    DynamicAlibiOptions,
    DynamicOptions,
    Learned2dOptions,
    LearnedOptions,
    LinearOptions,
    Llama3Options,
    LongRopeOptions,
    NoPositionOptions,
    NtkOptions,
    RelativeOptions,
    Rope2dOptions,
    SinusoidalOptions,
    YarnOptions,
    make_position,
)

CONFIG = ModelConfig(
    vocab_size=50,
    width=32,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_width=12,
    feedforward_width=40,
    max_positions=64,
    qkv_bias=True,
)


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) / parameter.shape[-1] ** 0.5)
    return module


def assert_gradients_reach(module: torch.nn.Module, out: Tensor) -> None:
    out.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def assert_tokenwise(module: Any, x_BTE: Tensor) -> None:
    """A token's result doesn't depend on its neighbours."""
    layout = Layout.rows([x_BTE.shape[1]] * x_BTE.shape[0])
    out_BTE, aux = module(x_BTE, layout)
    assert out_BTE.shape == x_BTE.shape
    assert aux is None
    changed_BTE = x_BTE.clone()
    changed_BTE[:, 3] += 1
    after_BTE, _ = module(changed_BTE, layout)
    others = torch.arange(x_BTE.shape[1]) != 3
    assert torch.equal(after_BTE[:, others], out_BTE[:, others])
    assert not torch.equal(after_BTE[:, 3], out_BTE[:, 3])


@pytest.mark.parametrize("name", list(NORMS))
def test_norm(name: str) -> None:
    norm = randomized(NORMS[name](32, 1e-6)).eval()
    if isinstance(norm, RunningNorm):
        norm.forget()
    x_BTE = torch.randn(2, 6, 32)
    assert_tokenwise(norm, x_BTE)
    assert_gradients_reach(norm, norm(x_BTE, Layout.rows([6, 6]))[0])
    # What a norm is for: the input's scale doesn't matter.
    layout = Layout.rows([6, 6])
    norm.train()
    torch.testing.assert_close(norm(x_BTE * 1000, layout)[0], norm(x_BTE, layout)[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", list(FEEDFORWARDS))
@pytest.mark.parametrize("bias", [False, True])
def test_feedforward(name: str, bias: bool) -> None:
    config = dataclasses.replace(CONFIG, feedforward=name, feedforward_bias=bias)
    feedforward = randomized(FEEDFORWARDS[name](config))
    x_BTE = torch.randn(2, 6, 32)
    assert_tokenwise(feedforward, x_BTE)
    assert_gradients_reach(feedforward, feedforward(x_BTE, Layout.rows([6, 6]))[0])
    assert any(key.endswith("bias") for key in feedforward.state_dict()) == bias


# Patterns, stretches and mixtures smaller than the texts here; masks that each way of attending is for.
WAYS = {
    "grouped_query": ({}, "causal"),
    "grouped_query_bidirectional": ({}, "bidirectional"),
    "sparse": ({"block": 2, "window": 2, "global_tokens": 1, "random_blocks": 1}, "causal"),
    "sparse_bidirectional": ({"block": 2, "window": 2, "global_tokens": 1, "random_blocks": 1}, "bidirectional"),
    "low_rank_bidirectional": ({"rank": 3}, "bidirectional"),
    "linear": ({}, "causal"),
    "linear_bidirectional": ({}, "bidirectional"),
    "pooled": ({"window": 2, "stride": 2}, "causal"),
    "pooled_convolution": ({"window": 2, "stride": 2, "pooling": "convolution"}, "causal"),
}


def attention_config(way: str, **changes: Any) -> ModelConfig:
    kind = next(name for name in sorted(ATTENTION_KINDS, key=len, reverse=True) if way.startswith(name))
    options, mask = WAYS[way]
    attention = read_options({"kind": kind, **options}, ATTENTION_KINDS, "attention")
    return dataclasses.replace(CONFIG, attention=attention, mask=mask, **changes)


def test_every_attention_has_a_way_here() -> None:
    assert {type(attention_config(way).attention) for way in WAYS} == set(ATTENTIONS) == set(ATTENTION_KINDS.values())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_attention(way: str, num_kv_heads: int) -> None:
    config = attention_config(way, num_kv_heads=num_kv_heads, output_bias=True)
    attention = randomized(make_attention(config))
    x_BTE = torch.randn(2, 7, 32, requires_grad=True)
    layout = Layout.rows([7, 7])
    memory = direct_memories(config, make_position(config), layout, 0.0)[0]
    out_BTE, weights = attention(x_BTE, memory, layout)
    assert out_BTE.shape == (2, 7, 32)
    assert weights is None
    # Causal: a token's output has no gradient with respect to later inputs, and one to every earlier input.
    (grad_BTE,) = torch.autograd.grad(out_BTE[0, 3].sum(), x_BTE, retain_graph=True)
    reached_T = grad_BTE[0].abs().sum(-1) > 0
    assert not grad_BTE[1].any()
    if config.mask == "causal":
        assert not grad_BTE[0, 4:].any()
        assert reached_T[3] and (reached_T[:4].all() or "sparse" in way)
    else:
        assert reached_T.all() or "sparse" in way
    # A key bias adds the same to every score of an unrotated query; it matters because keys are rotated.
    assert_gradients_reach(attention, out_BTE)


@pytest.mark.parametrize("way", WAYS)
def test_attention_equals_its_reference_with_weights(way: str) -> None:
    config = attention_config(way)
    attention = randomized(make_attention(config))
    x_BTE = torch.randn(2, 9, 32, requires_grad=True)
    results = []
    for capture in (Capture(), Capture(weights=True)):
        layout = Layout.rows([9, 6], capture=capture)
        memory = direct_memories(config, make_position(config), layout, 0.0)[0]
        out_BTE, weights = attention(x_BTE, memory, layout)
        real_NE = torch.cat((out_BTE[0], out_BTE[1, :6]))
        results.append((real_NE, *torch.autograd.grad(real_NE.pow(3).sum(), [x_BTE, *attention.parameters()])))
        assert (weights is not None) == capture.weights
    assert weights is not None and weights.shape[:3] == (2, 4, 9)
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_attention_hands_over_unrotated_keys(num_kv_heads: int) -> None:
    """Positions are the memory's business: the same token gives the same key wherever it stands."""
    attention = randomized(make_attention(dataclasses.replace(CONFIG, num_kv_heads=num_kv_heads)))
    handed: list[Tensor] = []

    class Memory:
        some_may_ask = True

        def attend(
            self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
        ) -> Attended:
            handed.extend((query_BHTD, key_BKTD, value_BKTD))
            return Attended(query_BHTD, None)

    x_BTE = torch.randn(1, 1, 32).expand(1, 5, 32)
    attention(x_BTE, Memory(), Layout.rows([5]))
    assert [tuple(each.shape) for each in handed] == [(1, heads, 5, 12) for heads in (4, num_kv_heads, num_kv_heads)]
    torch.testing.assert_close(handed[1], handed[1][:, :, :1].expand_as(handed[1]))


ROTARY = [
    RopeOptions(),
    LinearOptions(factor=4.0),
    NtkOptions(factor=4.0),
    DynamicOptions(factor=4.0),
    YarnOptions(factor=4.0, original_max_positions=16),
    Llama3Options(factor=4.0, original_max_positions=16, low_freq_factor=1.0, high_freq_factor=4.0),
    LongRopeOptions(short_factor=(1.0,) * 6, long_factor=(1, 1.2, 1.5, 2, 3, 4), original_max_positions=16),
    Rope2dOptions(),
]
BIASES = [AlibiOptions(), DynamicAlibiOptions()]
ADDED = [LearnedOptions(), Learned2dOptions(), SinusoidalOptions(), NoPositionOptions()]


def test_every_position_has_options_here() -> None:
    assert [type(options) for options in [*ROTARY, *BIASES, *ADDED, RelativeOptions()]] == list(POSITIONS)
    assert list(POSITION_KINDS.values()) == list(POSITIONS)


@pytest.mark.parametrize("options", [*ROTARY, *BIASES, *ADDED, RelativeOptions()], ids=lambda each: type(each).__name__)
def test_every_position_in_a_model(options: Any, tmp_path: Path) -> None:
    """Causal; cached in pieces equals uncached; gradients reach every weight; saved and counted."""
    model = Transformer(dataclasses.replace(CONFIG, num_layers=2, position=options))
    tokens_BT = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    layout = Layout.rows([12, 12], totals=[12, 12])
    logits = model(tokens_BT, layout)
    cache = make_policy("full").start(model.config, model.position, 2)
    pieces = [
        model(tokens_BT[:, first:last], Layout.rows([last - first] * 2, [first] * 2, totals=[12, 12]), cache)
        for first, last in ((0, 5), (5, 6), (6, 12))
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=1), logits, atol=2e-5, rtol=0)
    changed_BT = torch.cat((tokens_BT[:, :7], (tokens_BT[:, 7:] + 1) % 50), dim=1)
    torch.testing.assert_close(model(changed_BT, layout)[:, :7], logits[:, :7], atol=2e-5, rtol=0)
    logits.logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert parameter_count(model.config) == sum(parameter.numel() for parameter in model.parameters())
    save_model(model, tmp_path / "out")
    torch.testing.assert_close(load_model(tmp_path / "out")(tokens_BT, layout), logits, atol=1e-6, rtol=0)


# Positions in two axes pair halves only.
ADJACENT = [(options, "adjacent", 0.5) for options in ROTARY if isinstance(options, RopeOptions)]


@pytest.mark.parametrize(
    ("options", "pairing", "share"),
    [(options, "halves", 1.0) for options in ROTARY] + ADJACENT,
    ids=lambda value: str(value) if isinstance(value, str | float) else type(value).__name__,
)
def test_rotary_position(options: Any, pairing: str, share: float) -> None:
    pairs = int(CONFIG.head_width * share) // 2
    if isinstance(options, RopeOptions):
        options = dataclasses.replace(options, pairing=pairing, share=share)
    if isinstance(options, LongRopeOptions):
        short, long = options.short_factor[:pairs], options.long_factor[:pairs]
        options = dataclasses.replace(options, short_factor=short, long_factor=long)
    config = dataclasses.replace(CONFIG, position=options)
    position = make_position(config)
    numbers = pairs if pairing == "adjacent" else 2 * pairs
    x_BHTD = torch.randn(2, 3, 5, config.head_width, requires_grad=True)
    for positions in (torch.arange(5), torch.arange(10).view(2, 5), torch.arange(30).view(2, 3, 5)):
        rotation = position.rotation(positions)
        assert rotation.cosine.shape == rotation.sine.shape == (*positions.shape, numbers)
        assert rotation.cosine.dtype == torch.float32
        out_BHTD = position.rotate(x_BHTD, rotation)
        assert out_BHTD.shape == x_BHTD.shape
        (grad_BHTD,) = torch.autograd.grad(out_BHTD.square().sum(), x_BHTD)
        assert (grad_BHTD.abs() > 0).all()
    # The trained window's positions are told apart.
    turned_TD = position.rotate(torch.ones(1, 1, 64, config.head_width), position.rotation(torch.arange(64)))[0, 0]
    assert torch.cdist(turned_TD, turned_TD).fill_diagonal_(1).min() > 1e-3
    # A score depends on the distance between two tokens, not on where they stand.
    query, key = torch.randn(1, 1, 1, config.head_width), torch.randn(1, 1, 1, config.head_width)
    scores = [
        float(
            (
                position.rotate(query, position.rotation(torch.tensor([start + 9])))
                * position.rotate(key, position.rotation(torch.tensor([start])))
            ).sum()
        )
        for start in (0, 1, 50, 1_000_000)
    ]
    assert max(scores) - min(scores) < 1e-5
    assert not position.adds_bias
    assert position.bias(torch.arange(5), torch.arange(5)) is None


@pytest.mark.parametrize("options", BIASES, ids=lambda options: type(options).__name__)
def test_position_with_a_bias(options: Any) -> None:
    """Nothing is turned; nearer keys score higher in every head, and each distance is told from the others."""
    position = make_position(dataclasses.replace(CONFIG, position=options))
    assert position.adds_bias
    x_BHTD = torch.randn(2, 4, 5, CONFIG.head_width)
    assert torch.equal(position.rotate(x_BHTD, position.rotation(torch.arange(5))), x_BHTD)
    for positions in (torch.arange(64), torch.arange(128).view(2, 64)):
        bias = position.bias(positions, positions, torch.tensor(1000))
        assert bias is not None
        assert (bias.shape, bias.dtype) == ((*positions.shape[:-1], 4, 64, 64), torch.float32)
        assert (bias[..., -1, :].diff() > 0).all()


@pytest.mark.parametrize(("field", "known"), [("norm", NORMS), ("feedforward", FEEDFORWARDS)])
def test_unknown_variant_is_refused(field: str, known: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{field}='nonsense' is not known; known: {', '.join(known)}"):
        Transformer(dataclasses.replace(CONFIG, **{field: "nonsense"}))


def test_rms_norm_equals_transformers() -> None:
    ours, theirs = NORMS["rms"](48, 1e-3), LlamaRMSNorm(48, 1e-3)
    randomized(ours)
    theirs.load_state_dict(ours.state_dict())
    x_BTE = 0.05 * torch.randn(2, 5, 48)
    torch.testing.assert_close(ours(x_BTE, Layout.rows([5, 5]))[0], theirs(x_BTE), atol=1e-6, rtol=1e-5)


def test_layer_norm_equals_torch() -> None:
    ours, theirs = NORMS["layer"](48, 1e-3), torch.nn.LayerNorm(48, 1e-3)
    randomized(ours)
    theirs.load_state_dict(ours.state_dict())
    x_BTE = 3 + 0.05 * torch.randn(2, 5, 48)
    torch.testing.assert_close(ours(x_BTE, Layout.rows([5, 5]))[0], theirs(x_BTE), atol=1e-6, rtol=1e-5)


def test_swiglu_equals_transformers() -> None:
    config = dataclasses.replace(CONFIG, feedforward_bias=True)
    ours = randomized(FEEDFORWARDS["swiglu"](config))
    theirs = LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=40, num_attention_heads=4, mlp_bias=True))
    state = {f"{name.split('.')[0]}_proj.{name.split('.')[1]}": tensor for name, tensor in ours.state_dict().items()}
    theirs.load_state_dict(state)
    x_BTE = torch.randn(2, 5, 32)
    torch.testing.assert_close(ours(x_BTE, Layout.rows([5, 5]))[0], theirs(x_BTE), atol=1e-6, rtol=1e-5)


T5_ACTIVATIONS = {
    "swiglu": "silu",
    "geglu": "gelu_python",
    "relu": "relu",
    "gelu": "gelu_python",
    "gelu_tanh": "gelu_new",
}


@pytest.mark.parametrize("name", list(FEEDFORWARDS))
def test_feedforward_equals_transformers(name: str) -> None:
    """T5 is the architecture that has both shapes; its activations are formulas in Python."""
    ours = randomized(FEEDFORWARDS[name](dataclasses.replace(CONFIG, feedforward=name)))
    gated = hasattr(ours, "gate")
    options = T5Config(d_model=32, d_ff=40, dropout_rate=0.0)
    options.dense_act_fn = T5_ACTIVATIONS[name]
    theirs = (T5DenseGatedActDense if gated else T5DenseActDense)(options)
    names = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if gated else {"up": "wi", "down": "wo"}
    theirs.load_state_dict({f"{names[key.split('.')[0]]}.weight": tensor for key, tensor in ours.state_dict().items()})
    x_BTE = torch.randn(2, 5, 32)
    torch.testing.assert_close(ours(x_BTE, Layout.rows([5, 5]))[0], theirs(x_BTE), atol=1e-6, rtol=1e-5)


def test_every_slot_is_initialized() -> None:
    """A variant with a tensor that `initialize` doesn't know would start as whatever was in memory."""
    for way, norm, feedforward in [
        *product(WAYS, ["layer"], ["gelu"]),
        *product(["grouped_query"], NORMS, FEEDFORWARDS),
    ]:
        config = attention_config(way, norm=norm, feedforward=feedforward, output_bias=True, feedforward_bias=True)
        model = Transformer(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        initialize(model, seed=0)
        assert all(parameter.isfinite().all() for parameter in model.parameters())
