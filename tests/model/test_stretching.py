"""A longer window: what each method makes of a config, and what can't be stretched."""

import dataclasses
from typing import Any

import pytest
import torch

from handscroll.model import ModelConfig, RopeOptions, Transformer
from handscroll.model.position import (
    AlibiOptions,
    DynamicAlibiOptions,
    DynamicOptions,
    LinearOptions,
    Llama3Options,
    LongRopeOptions,
    NtkOptions,
    YarnOptions,
)
from handscroll.model.slots import PositionOptions
from handscroll.model.stretching import METHODS, stretch, with_config

CONFIG = ModelConfig(97, 64, 2, 4, 2, 16, 112, 16, position=RopeOptions(5e5))
ALIBI = ModelConfig(97, 64, 2, 4, 2, 16, 112, 16, position=AlibiOptions())
SHORT, LONG = [1.0] * 8, [1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 8.0, 9.0]
FACTORS = {"short_factor": SHORT, "long_factor": LONG}

# The options that are given, the positions that must come of them, and the window that config.json then has.
STRETCHED: dict[str, tuple[dict[str, Any], PositionOptions, int]] = {
    "linear": ({}, LinearOptions(theta=5e5, factor=4.0), 64),
    "ntk": ({"factor": 6}, NtkOptions(theta=5e5, factor=6.0), 64),
    "dynamic": ({}, DynamicOptions(theta=5e5, factor=1.0), 16),
    "yarn": (
        {"beta_fast": 16, "truncate": False},
        YarnOptions(theta=5e5, factor=4.0, original_max_positions=16, beta_fast=16.0, truncate=False),
        64,
    ),
    "llama3": (
        {"high_freq_factor": 8},
        Llama3Options(theta=5e5, factor=4.0, original_max_positions=16, low_freq_factor=1.0, high_freq_factor=8.0),
        64,
    ),
    "longrope": (
        FACTORS,
        LongRopeOptions(theta=5e5, short_factor=tuple(SHORT), long_factor=tuple(LONG), original_max_positions=16),
        64,
    ),
    "dynamic_alibi": ({}, DynamicAlibiOptions(), 16),
    "none": ({}, RopeOptions(5e5), 64),
}


@pytest.mark.parametrize("method", METHODS)
def test_what_follows_from_the_model_is_derived(method: str) -> None:
    options, position, window = STRETCHED[method]
    stretched = stretch(ALIBI if isinstance(position, AlibiOptions) else CONFIG, method, 64, options)
    assert (stretched.position, stretched.max_positions) == (position, window)
    assert type(stretched.position) is type(position)


def test_a_longer_window_alone_suits_any_positions() -> None:
    stretched = stretch(ALIBI, "none", 64)
    assert (stretched.position, stretched.max_positions) == (AlibiOptions(), 64)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("dynamic_alibi", "none")])
def test_a_rotary_method_is_refused_for_alibi(method: str) -> None:
    says = rf"method='{method}' is not for a model with ALiBi, which turns nothing: choose one of dynamic_alibi, none"
    with pytest.raises(ValueError, match=says):
        stretch(ALIBI, method, 64)


def test_weights_are_shared() -> None:
    model = Transformer(CONFIG, seed=2)
    stretched = with_config(model, stretch(CONFIG, "yarn", 64))
    assert stretched.embedding.weight.data_ptr() == model.embedding.weight.data_ptr()
    assert all(parameter.requires_grad for parameter in stretched.parameters())
    tokens_BT = torch.arange(40)[None]
    assert not torch.allclose(model(tokens_BT), stretched(tokens_BT), atol=1e-3)


REFUSED: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "unknown method": ("yarm", 64, {}, r"method='yarm' is not known; known: linear, ntk, dynamic, yarn"),
    "no longer window": ("yarn", 16, {}, r"to=16 is not longer than the model's window, 16: give a longer one"),
    "unknown option": ("linear", 64, {"beta": 1}, r"linear has no option 'beta': known are factor"),
    "no options": ("none", 64, {"factor": 2}, r"none has no option 'factor': known are none"),
    "not rotary": (
        "dynamic_alibi",
        64,
        {},
        r"method='dynamic_alibi' is not for a model with rotary positions: choose one of linear, .*, longrope, none",
    ),
    "derived option": ("yarn", 64, {"original_max_positions": 8}, r"yarn has no option 'original_max_positions'"),
    "text for a number": ("yarn", 64, {"beta_fast": "x"}, r"beta_fast='x' is not of type float"),
    "a number for a switch": ("yarn", 64, {"truncate": 1}, r"truncate=1 is not of type bool"),
    "impossible factor": ("linear", 64, {"factor": 0.5}, r"factor=0.5: at least 1"),
    "longrope without factors": ("longrope", 64, {}, r"longrope needs short_factor and long_factor, 8 numbers each"),
    "too few factors": (
        "longrope",
        64,
        {**FACTORS, "short_factor": [1.0]},
        r"short_factor holds 1 factors, .* 8 pairs",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_stretched_so_is_refused(case: str) -> None:
    method, to, options, says = REFUSED[case]
    with pytest.raises(ValueError, match=says):
        stretch(CONFIG, method, to, options)


def test_a_stretched_alibi_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stretched already \(dynamic_alibi\): extend the model that it was made"):
        stretch(stretch(ALIBI, "dynamic_alibi", 64), "dynamic_alibi", 128)


@pytest.mark.parametrize("before", ["linear", "dynamic", "yarn"])
def test_a_stretched_model_is_refused(before: str) -> None:
    with pytest.raises(ValueError, match=rf"stretched already \({before}, factor \d\): extend the model that it was"):
        stretch(stretch(CONFIG, before, 64), "yarn", 128)


def test_pairing_and_share_stay() -> None:
    config = dataclasses.replace(CONFIG, position=RopeOptions(5e4, "adjacent", 0.5))
    position = stretch(config, "yarn", 64).position
    assert isinstance(position, YarnOptions)
    assert (position.theta, position.pairing, position.share) == (5e4, "adjacent", 0.5)
    with pytest.raises(ValueError, match="longrope needs short_factor and long_factor, 4 numbers each"):
        stretch(config, "longrope", 64)
    with pytest.raises(ValueError, match="yarn has no option 'pairing'"):
        stretch(config, "yarn", 64, {"pairing": "halves"})
