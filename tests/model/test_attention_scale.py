"""Scores by another scale than 1 / sqrt(head width): transformers' Granite has one, and every cache keeps it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

from handscroll.kvcache import POLICIES, make_policy
from handscroll.model import Capture, Layout, ModelConfig, Transformer, load_model, save_model
from handscroll.model.families.llama import LLAMA
from handscroll.model.position import RelativeOptions
from handscroll.model.slots import GroupedQueryOptions

SCALE = 0.75
CONFIG = ModelConfig(50, 32, 2, 4, 2, 8, 48, 64, attention=GroupedQueryOptions(SCALE))
# What brings 1 / sqrt(8) to the scale.
LONGER = SCALE * math.sqrt(8)


def random_model(config: ModelConfig) -> Transformer:
    model = Transformer(config, seed=None)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return model.requires_grad_(False)


def text(length: int) -> torch.Tensor:
    return torch.randint(0, 50, (2, length), generator=torch.Generator().manual_seed(length))


def test_a_scale_is_granites_attention_multiplier() -> None:
    theirs = GraniteForCausalLM(
        GraniteConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=CONFIG.norm_eps,
            attention_multiplier=SCALE,
            attn_implementation="eager",
        )
    ).eval()
    ours = random_model(CONFIG)
    theirs.load_state_dict({LLAMA.file_name(name): tensor for name, tensor in ours.state_dict().items()})
    tokens_BT = text(20)
    logits_BTV = ours(tokens_BT)
    torch.testing.assert_close(logits_BTV, theirs(tokens_BT).logits, atol=1e-4, rtol=0)
    usual = random_model(dataclasses.replace(CONFIG, attention=GroupedQueryOptions()))
    assert (logits_BTV - usual(tokens_BT)).abs().max() > 0.1


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_scale_is_longer_queries_under_every_policy(policy: str, qk_norm: bool) -> None:
    """The same as queries that come longer from their matrix, or from their norm, in pieces and token by token."""
    scaled = random_model(dataclasses.replace(CONFIG, qk_norm=qk_norm, qkv_bias=True))
    longer = random_model(dataclasses.replace(scaled.config, attention=GroupedQueryOptions()))
    for layer in longer.layers:
        attention = layer.get_submodule("attention")
        for parameter in attention.get_submodule("q_norm" if qk_norm else "q").parameters():
            parameter.mul_(LONGER)
    tokens_BT = text(40)
    both = []
    for model in (scaled, longer):
        cache = make_policy(policy).start(model.config, model.position, 2)
        pieces = ((0, 30), (30, 39), (39, 40))
        both.append(torch.cat([model(tokens_BT[:, first:last], cache=cache) for first, last in pieces], 1))
    torch.testing.assert_close(*both, atol=1e-4, rtol=0)


def test_weights_are_the_softmax_of_scaled_products() -> None:
    model = random_model(dataclasses.replace(CONFIG, num_layers=1, num_kv_heads=4))
    tokens_BT = text(9)
    hidden = model.hidden(tokens_BT, Layout.rows([9, 9], capture=Capture(weights=True)))
    (layer,) = model.layers
    read_BTE, _ = layer.get_submodule("attention_norm")(model.embedding(tokens_BT), Layout.rows([9, 9]))
    attention = layer.get_submodule("attention")
    query, key = (getattr(attention, name)(read_BTE).unflatten(-1, (4, 8)).transpose(1, 2) for name in ("q", "k"))
    rotation = model.position.rotation(torch.arange(9))
    query, key = model.position.rotate(query, rotation), model.position.rotate(key, rotation)
    scores = (SCALE * query @ key.mT).masked_fill(torch.ones(9, 9).triu(1) > 0, -math.inf)
    torch.testing.assert_close(hidden.weights[0], scores.softmax(-1), atol=1e-5, rtol=0)


def test_a_scale_is_saved(tmp_path: Path) -> None:
    model = random_model(CONFIG)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == CONFIG
    torch.testing.assert_close(loaded(text(9)), model(text(9)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_means_nothing_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"attention scale=.*: .* give a number above 0"):
        GroupedQueryOptions(scale)


def test_relative_positions_have_their_own() -> None:
    with pytest.raises(ValueError, match=r"attention scale=0.75: what relative positions add"):
        dataclasses.replace(CONFIG, position=RelativeOptions())
