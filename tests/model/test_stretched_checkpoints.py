"""Checkpoints with stretched positions: transformers' logits within the window and past it; config.json both ways."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from handscroll.model import Layout, ModelConfig, RopeOptions, Transformer, load_model, save_model
from handscroll.model.position import (
    DynamicOptions,
    LinearOptions,
    Llama3Options,
    LongRopeOptions,
    NtkOptions,
    YarnOptions,
)

TOLERANCE = 1e-4
ORIGINAL = {"original_max_position_embeddings": 16}
SHORT = [1.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
LONG = [1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 8.0, 9.0]
YARN = {"rope_type": "yarn", "factor": 4.0, **ORIGINAL}
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, **ORIGINAL}
# The window in config.json, and what it says of positions.
METHODS: dict[str, tuple[int, dict[str, Any]]] = {
    "linear": (64, {"rope_type": "linear", "factor": 4.0}),
    "dynamic": (16, {"rope_type": "dynamic", "factor": 2.0}),
    "dynamic-1-theta": (16, {"rope_type": "dynamic", "factor": 1.0, "rope_theta": 5e5}),
    "yarn": (64, YARN),
    "yarn-options": (64, {**YARN, "beta_fast": 4, "beta_slow": 0.5, "truncate": False, "attention_factor": 1.3}),
    "yarn-mscale": (16, {**YARN, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.5, "rope_theta": 5e5}),
    "llama3": (64, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}),
    "longrope": (64, LONGROPE),
    "longrope-factor": (64, {**LONGROPE, "factor": 32.0}),
    "longrope-attention": (64, {**LONGROPE, "attention_factor": 1.5}),
}
Make = Callable[..., Any]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The keys of a config.json in version 5's style."""
    window, description = METHODS[request.param]
    return {"max_position_embeddings": window, "rope_parameters": {"rope_theta": 1e4, **description}}


def random_tokens(batch: int, length: int) -> Tensor:
    return torch.randint(0, 97, (batch, length), generator=torch.Generator().manual_seed(length))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@torch.no_grad()
def test_logits_equal_transformers(family: str, method: Any, new_pair: Make) -> None:
    """At lengths within the original window of 16, at its end, and past it."""
    pair = new_pair(family, num_key_value_heads=2, **method)
    for length in (5, 16, 17, 40, 64, 150):
        tokens_BT = random_tokens(2, length)
        close(pair.ours(tokens_BT), pair.theirs(tokens_BT).logits)


@torch.no_grad()
def test_each_row_and_each_document_stands_in_its_own_length(method: Any, new_pair: Make) -> None:
    """In one batch, a short and a long text, padded or packed: both as transformers reads them alone."""
    pair = new_pair("llama", **method)
    lengths = (9, 16, 40)
    tokens_BT = random_tokens(3, 40)
    alone = [pair.theirs(tokens_BT[row : row + 1, :length]).logits[0] for row, length in enumerate(lengths)]
    rows_BTV = pair.ours(tokens_BT, Layout.rows(lengths))
    index_T, position_T = torch.arange(70), torch.cat([torch.arange(length) for length in (*lengths, 5)])
    document_T = torch.repeat_interleave(torch.tensor([0, 1, 2, -1]), torch.tensor([*lengths, 5]))
    index_T[document_T < 0] = -1
    texts = [tokens_BT[row, :length] for row, length in enumerate(lengths)]
    packed_T = torch.cat([*texts, torch.zeros(5, dtype=torch.long)])
    packed = Layout.packed(index_T[None], position_T[None], document_T[None])
    packed_TV = pair.ours(packed_T[None], packed)[0]
    for row, (length, expected_TV) in enumerate(zip(lengths, alone, strict=True)):
        close(rows_BTV[row, :length], expected_TV)
        close(packed_TV[document_T == row], expected_TV)
    wanted_BQ = torch.tensor([[3, 60, 20, 66]])
    wanted_BQE = pair.ours.hidden(packed_T[None], packed, wanted_BQ=wanted_BQ).last_BTE
    close(pair.ours.logits(wanted_BQE)[0, :3], packed_TV[wanted_BQ[0, :3]])


def config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def old_style(method: dict[str, Any], name: str = "rope_type") -> dict[str, Any]:
    """The same in version 4's keys."""
    scaling = dict(method["rope_parameters"])
    theta, kind = scaling.pop("rope_theta"), scaling.pop("rope_type")
    return {"rope_parameters": None, "rope_theta": theta, "rope_scaling": {name: kind, **scaling}}


@pytest.mark.parametrize("style", ["rope_parameters", "rope_type", "type"])
@torch.no_grad()
def test_round_trip(style: str, method: Any, new_pair: Make, tmp_path: Path) -> None:
    """Every key in order, unknown ones included, and the same model, in the style that the file has."""
    pair = new_pair("llama", **method)
    config = config_of(pair.folder)
    config |= {} if style == "rope_parameters" else old_style(method, style)
    key = "rope_parameters" if style == "rope_parameters" else "rope_scaling"
    config[key] = {"zeta": [1, None], **config[key]}
    (pair.folder / "config.json").write_text(json.dumps(config))
    model = load_model(pair.folder)
    assert model.config == pair.ours.config
    save_model(model, tmp_path / "out")
    assert json.dumps(config_of(tmp_path / "out")) == json.dumps(config)


NEW = {
    "plain": RopeOptions(5e5),
    "linear": LinearOptions(factor=4.0),
    "ntk": NtkOptions(theta=5e5, factor=4.0),
    "dynamic": DynamicOptions(factor=2.0),
    "yarn": YarnOptions(factor=4.0, original_max_positions=16, beta_fast=8.0, truncate=False),
    "yarn-mscale": YarnOptions(factor=4.0, original_max_positions=16, mscale=0.7, mscale_all_dim=0.3),
    "llama3": Llama3Options(factor=4.0, original_max_positions=16, low_freq_factor=1.0, high_freq_factor=4.0),
    "longrope": LongRopeOptions(
        short_factor=tuple(SHORT), long_factor=tuple(LONG), original_max_positions=16, attention_factor=1.2
    ),
}


@pytest.fixture(params=NEW)
def position(request: pytest.FixtureRequest) -> RopeOptions:
    return NEW[request.param]


def as_written(position: RopeOptions) -> RopeOptions:
    return position.plain(16) if isinstance(position, NtkOptions) else position


@torch.no_grad()
def test_new_model(position: RopeOptions, load_theirs: Make, tmp_path: Path) -> None:
    config = ModelConfig(97, 64, 2, 4, 2, 16, 112, 16, position=position, qkv_bias=True)
    model = Transformer(config, seed=3)
    save_model(model, tmp_path)
    assert load_model(tmp_path).config == dataclasses.replace(config, position=as_written(position))
    theirs = load_theirs(tmp_path)
    for length in (16, 40):
        tokens_BT = random_tokens(2, length)
        close(theirs(tokens_BT).logits, model(tokens_BT))
        assert torch.equal(load_model(tmp_path)(tokens_BT), model(tokens_BT))


@pytest.mark.parametrize("style", ["rope_parameters", "rope_type", "type"])
@pytest.mark.parametrize("before", ["linear", "longrope"])
@torch.no_grad()
def test_stretching_what_was_loaded(
    before: str, style: str, position: RopeOptions, new_pair: Make, load_theirs: Make, tmp_path: Path
) -> None:
    """The old method's keys go, unknown ones stay, and transformers reads what was meant."""
    window, description = METHODS[before]
    method = {"max_position_embeddings": window, "rope_parameters": {"rope_theta": 1e4, **description}}
    folder = new_pair("qwen2", **method).folder
    old = config_of(folder) | ({} if style == "rope_parameters" else old_style(method, style))
    key = "rope_parameters" if style == "rope_parameters" else "rope_scaling"
    old[key]["zeta"] = "kept"
    (folder / "config.json").write_text(json.dumps(old))
    model = load_model(folder)
    changed = Transformer(dataclasses.replace(model.config, position=position, max_positions=32), seed=None)
    changed.load_state_dict(model.state_dict())
    changed.source = model.source
    save_model(changed, tmp_path / "out")
    new = config_of(tmp_path / "out")
    assert {name for name in old if old[name] != new[name]} <= {"max_position_embeddings", key, "rope_theta"}
    assert list(new) == list(old)
    assert new[key]["zeta"] == "kept"
    assert ("long_factor" in new[key]) == isinstance(position, LongRopeOptions)
    assert ("type" in new[key]) == (style == "type")
    assert load_model(tmp_path / "out").config.position == as_written(position)
    theirs = load_theirs(tmp_path / "out")
    for length in (10, 50):
        tokens_BT = random_tokens(2, length)
        close(theirs(tokens_BT).logits, changed(tokens_BT))


@torch.no_grad()
def test_an_original_window_beside_the_description_counts(new_pair: Make, load_theirs: Make, tmp_path: Path) -> None:
    """As Phi-3's config.json has it, for transformers as for us; and what is written there is what counts."""
    window, description = METHODS["longrope"]
    folder = new_pair(
        "llama", max_position_embeddings=window, rope_parameters={"rope_theta": 1e4, **description}
    ).folder
    config = config_of(folder) | ORIGINAL
    config["rope_parameters"].pop("original_max_position_embeddings")
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder)
    assert isinstance(model.config.position, LongRopeOptions)
    assert model.config.position.original_max_positions == 16
    tokens_BT = random_tokens(2, 40)
    close(model(tokens_BT), load_theirs(folder)(tokens_BT).logits)
    position = dataclasses.replace(model.config.position, original_max_positions=50)
    changed = Transformer(dataclasses.replace(model.config, position=position), seed=None)
    changed.load_state_dict(model.state_dict())
    changed.source = model.source
    save_model(changed, tmp_path / "out")
    assert load_model(tmp_path / "out").config == changed.config
    close(changed(tokens_BT), load_theirs(tmp_path / "out")(tokens_BT).logits)


def test_an_original_window_that_is_not_named_is_the_window(new_pair: Make, tmp_path: Path) -> None:
    """A window that changes after loading leaves the original one as it was: the file has to say so then."""
    parameters = {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0}
    folder = new_pair("llama", max_position_embeddings=16, rope_parameters=parameters).folder
    config = config_of(folder)
    config["rope_parameters"].pop("original_max_position_embeddings")
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder)
    assert model.config.position == YarnOptions(factor=4.0, original_max_positions=16)
    model.config = dataclasses.replace(model.config, max_positions=64)
    save_model(model, tmp_path / "out")
    assert load_model(tmp_path / "out").config == model.config
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
