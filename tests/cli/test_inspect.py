"""`handscroll inspect`: what it shows is what loading would give, and nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

import handscroll
from handscroll.kvcache import POLICIES, make_policy
from handscroll.kvcache.plan import Text
from handscroll.model import ModelConfig, Transformer
from handscroll.model.position import RelativeOptions
from handscroll.model.routing import ExpertOptions

Run = Callable[..., Any]


def test_all_is_told_as_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = handscroll.load("model")
    monkeypatch.setattr("handscroll.model.checkpoint.read_weights", None)
    ran = run("inspect", "model", "--context", "2k", "--batch", "3", "--dtype", "float16", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    parameters = [parameter.numel() for parameter in model.parameters()]
    assert found["parameters"] == sum(parameters) == sum(kind["total"] for kind in found["kinds"])
    assert {"kind": "attention.q.weight", "shape": [32, 32], "each": 1024, "times": 2, "total": 2048} in found["kinds"]
    assert (found["dtype"], found["stored_bytes"]) == (["float32"], 4 * sum(parameters))
    assert (found["loaded_dtype"], found["weights_bytes"]) == ("float16", 2 * sum(parameters))
    assert found["architecture"]["trained_window"] == 64
    assert found["architecture"]["position_options"] == {"theta": 10000.0, "pairing": "halves", "share": 1.0}
    assert found["tokenizer"]["tokens"] == tokenizer.vocab_size
    assert [each["policy"] for each in found["memory"]] == list(POLICIES)
    text = Text(2048, 3, torch.float16)
    for each in found["memory"]:
        planned = make_policy(each["policy"]).plan(model.config, text)
        assert (each["device_bytes"], each["host_bytes"]) == tuple(planned)


def test_for_people(run: Run) -> None:
    ran = run("inspect", "model", "--cache", "offloaded", "--cache.to=file")
    assert ran.code == 0
    for words in (
        "feedforward.gate",
        "trained window",
        "float32 on cpu",
        "Memory of 64 tokens",
        "on disk",
        "lm, bias no",
    ):
        assert words in ran.out
    assert "block_memory" not in ran.out


def test_experts_are_counted_apart(run: Run) -> None:
    experts = ExpertOptions(4, 8, top_k=1)
    model = Transformer(ModelConfig(50, 16, 2, 2, 2, 8, 8, 64, experts=experts))
    handscroll.model.save_model(model, "experts")
    found = json.loads(run("inspect", "experts", "--json").out)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert (found["parameters"], found["active_parameters"]) == (total, total - 2 * 3 * 3 * 16 * 8)
    assert total == sum(kind["total"] for kind in found["kinds"])
    up = {"kind": "feedforward.experts.up.weight", "shape": [8, 16], "each": 128, "times": 8, "total": 1024}
    assert up in found["kinds"]
    assert found["architecture"]["experts"]["count"] == 4
    shown = run("inspect", "experts").out
    assert f"Parameters: {total:,}, of which a token takes {found['active_parameters']:,}" in shown
    assert "of which" not in run("inspect", "model").out


def test_a_policy_that_the_model_has_no_use_for_is_refused_alone(run: Run) -> None:
    config = ModelConfig(50, 16, 1, 2, 2, 8, 8, 64, position=RelativeOptions())
    handscroll.model.save_model(Transformer(config), "relative")
    memory = {each["policy"]: each for each in json.loads(run("inspect", "relative", "--json").out)["memory"]}
    assert "this model's positions are relative" in memory["block_memory"]["refused"]
    assert memory["full"]["device_bytes"] > 0
    assert "that block_memory leaves out" in run("inspect", "relative").out.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--context", "4k,8k"), "--context '4k,8k': give one length, such as 32k"),
        (("--context", "long"), "the length 'long' is not understood"),
        (("--batch", "0"), "batch=0: at least 1"),
        (("--cache", "sieve"), "unknown cache policy 'sieve'"),
        (("--cache.window=8",), "options of a way of remembering need its name: give --cache, too"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], says: str, run: Run) -> None:
    ran = run("inspect", "model", *arguments)
    assert ran.code == 2
    assert says in ran.err
