"""Dropout: only in training mode, in its three places, unbiased, the same when a layer is recomputed, and saved."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from handscroll.kernels.attention import attention, attention_with_weights
from handscroll.model import Layout, ModelConfig, Transformer
from handscroll.model.checkpoint import load_model, save_model
from handscroll.model.fingerprint import fingerprint
from handscroll.model.memory import DirectMemory

CONFIG = ModelConfig(60, 32, 2, 4, 2, 8, 48, 64, qkv_bias=True)
DROPOUT = {"attention_dropout": 0.3, "residual_dropout": 0.2, "embedding_dropout": 0.1}
TOKENS_BT = torch.randint(60, (2, 20), generator=torch.Generator().manual_seed(3))


def make(**changes: Any) -> Transformer:
    return Transformer(dataclasses.replace(CONFIG, **changes), seed=1)


def test_nothing_is_dropped_elsewhere_than_in_training() -> None:
    plain, dropping = make(), make(**DROPOUT)
    assert torch.equal(dropping(TOKENS_BT), plain(TOKENS_BT))
    assert not torch.allclose(dropping.train()(TOKENS_BT), plain(TOKENS_BT), atol=0.1)
    assert torch.equal(dropping.eval()(TOKENS_BT), plain(TOKENS_BT))
    # In training mode a model that drops nothing is the same to the bit, gradients included.
    gradients = []
    for model in (make(), make().train()):
        model(TOKENS_BT).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", ["causal", "mask", "one token"])
def test_attention_dropout_has_the_mean_and_variance_of_its_definition(kind: str) -> None:
    """Each weight is dropped with probability p, else divided by 1 - p: variance p / (1 - p) * sum of (w v)^2."""
    draws, share, length = 8000, 0.3, 1 if kind == "one token" else 6
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, n, 4, generator=generator) for heads, n in ((4, length), (2, 6), (2, 6)))
    query.requires_grad_()
    mask = (
        (torch.rand(1, 1, 6, 6, generator=generator) < 0.7) | torch.eye(6, dtype=torch.bool) if kind == "mask" else None
    )
    expected, weights_BHTS = attention_with_weights(query, key, value, mask, kind == "causal")
    spread = weights_BHTS.square() @ value.repeat_interleave(2, dim=1).square() * share / (1 - share)
    torch.manual_seed(1)
    many = [each.expand(draws, -1, -1, -1) for each in (query, key, value)]
    found = attention(*many, mask, kind == "causal", dropout=share)
    assert found.requires_grad
    error = (spread / draws).sqrt()
    assert ((found.mean(0) - expected[0]).abs() <= 5 * error[0] + 1e-6).all()
    torch.testing.assert_close(found.var(0), spread[0], rtol=0.15, atol=1e-4)


def test_residual_and_embedding_dropout_stand_where_gpt2_has_them() -> None:
    """Against the layer written out, PyTorch's own dropout in the same order, from the same seed."""
    model = make(num_layers=1, residual_dropout=0.2, embedding_dropout=0.4).train()
    [block] = model.layers
    layout = Layout.rows([20, 20])
    torch.manual_seed(5)
    x_BTE = F.dropout(model.embedding(TOKENS_BT), 0.4)
    memory = DirectMemory(model.position, layout)
    x_BTE = x_BTE + F.dropout(block.attention(block.attention_norm(x_BTE, layout)[0], memory, layout)[0], 0.2)
    x_BTE = x_BTE + F.dropout(block.feedforward(block.feedforward_norm(x_BTE, layout)[0], layout)[0], 0.2)
    torch.manual_seed(5)
    torch.testing.assert_close(model.hidden(TOKENS_BT).last_BTE, model.norm(x_BTE, layout)[0], rtol=0, atol=1e-6)


def test_a_recomputed_layer_drops_the_same() -> None:
    gradients = []
    for recompute in (False, True):
        model = make(**DROPOUT).train()
        model.activation_checkpointing = recompute
        torch.manual_seed(2)
        model(TOKENS_BT).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_what_a_family_can_say_is_saved_and_transformers_reads_it(
    load_theirs: Callable[..., Any], tmp_path: Path
) -> None:
    model = make(**DROPOUT)
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attention_dropout"] == 0.3
    loaded = load_model(tmp_path)
    assert loaded.config == dataclasses.replace(CONFIG, attention_dropout=0.3)
    theirs = load_theirs(tmp_path)
    assert theirs.config.attention_dropout == 0.3
    torch.testing.assert_close(theirs(TOKENS_BT).logits, model(TOKENS_BT), rtol=0, atol=1e-5)
    # A saved memory of one is a memory of the other.
    assert fingerprint(loaded) == fingerprint(model)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"residual_dropout={share}: it is a share, from 0 to less than 1"):
        make(residual_dropout=share)
