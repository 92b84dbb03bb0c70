"""The one network: causality, gradients, recomputation and where a batch's tokens stand."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from handscroll.kernels.attention import attention_with_weights
from handscroll.model import Attended, Capture, Crossbatch, Layout, ModelConfig, RopeOptions, Transformer
from handscroll.model.memory import DirectMemory

CONFIG = ModelConfig(
    vocab_size=60,
    width=32,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_width=12,
    feedforward_width=48,
    max_positions=64,
    qkv_bias=True,
    output_bias=True,
    feedforward_bias=True,
)


def make(**changes: Any) -> Transformer:
    """A model with no weight at zero or one, so that none of them drops out of a result."""
    model = Transformer(dataclasses.replace(CONFIG, **changes), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def logits_and_embeddings(model: Transformer, tokens_BT: Tensor, layout: Layout | None) -> tuple[Tensor, Tensor]:
    embeddings = []

    def keep(_: Any, __: Any, out_BTE: Tensor) -> Tensor:
        embeddings.append(out_BTE.detach().requires_grad_())
        return embeddings[0]

    hook = model.embedding.register_forward_hook(keep)
    logits_BTV = model(tokens_BT, layout)
    hook.remove()
    return logits_BTV, embeddings[0]


@pytest.mark.parametrize("seen_at", [0, 4, 8])
@pytest.mark.parametrize("capture", [False, True])
def test_no_gradient_from_later_tokens(seen_at: int, capture: bool) -> None:
    layout = Layout.rows([9, 9], capture=Capture(weights=capture))
    logits_BTV, embeddings_BTE = logits_and_embeddings(make(), torch.randint(0, 60, (2, 9)), layout)
    (grad_BTE,) = torch.autograd.grad(logits_BTV[0, seen_at].square().sum(), embeddings_BTE)
    assert (grad_BTE[0, : seen_at + 1].abs().sum(-1) > 0).all()
    assert not grad_BTE[0, seen_at + 1 :].any()
    assert not grad_BTE[1].any()


def test_no_gradient_from_padding_or_other_documents() -> None:
    index_BT = torch.tensor([[0, 1, 2, 3, 4, 5, -1, -1]])
    document_BT = torch.tensor([[0, 0, 0, 1, 1, 1, -1, -1]])
    layout = Layout.packed(index_BT, torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0]]), document_BT)
    logits_BTV, embeddings_BTE = logits_and_embeddings(make(), torch.randint(0, 60, (1, 8)), layout)
    (grad_BTE,) = torch.autograd.grad(logits_BTV[0, 4].square().sum(), embeddings_BTE)
    assert (grad_BTE[0].abs().sum(-1) > 0).tolist() == [False, False, False, True, True, False, False, False]


def test_captured_weights_of_packed_documents() -> None:
    index_BT = torch.tensor([[0, 1, 2, 3, 4, 5, -1, -1]])
    document_BT = torch.tensor([[0, 0, 0, 1, 1, 1, -1, -1]])
    layout = Layout.packed(index_BT, torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0]]), document_BT)
    model, tokens_BT = make(), torch.randint(0, 60, (1, 8))
    captured = model.hidden(tokens_BT, dataclasses.replace(layout, capture=Capture(weights=True)))
    seen_TS = torch.zeros(6, 8, dtype=torch.bool)
    seen_TS[:3, :3] = seen_TS[3:, 3:6] = torch.ones(3, 3).tril().bool()
    for weights_BHTS in captured.weights:
        assert ((weights_BHTS[0, :, :6] > 0) == seen_TS).all()
    torch.testing.assert_close(captured.last_BTE[:, :6], model.hidden(tokens_BT, layout).last_BTE[:, :6])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_gradients_reach_every_parameter(tied: bool, activation_checkpointing: bool) -> None:
    model = make(tied_embeddings=tied)
    model.activation_checkpointing = activation_checkpointing
    tokens_BT = torch.randint(0, 60, (2, 9))
    torch.nn.functional.cross_entropy(model(tokens_BT[:, :-1]).flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_recomputation_changes_no_number() -> None:
    """Activation checkpointing: the same loss and gradients, bit for bit, padding and capture included."""
    tokens_BT = torch.randint(0, 60, (2, 9))
    layout = Layout.rows([9, 5], capture=Capture(layers=True))
    results = []
    for activation_checkpointing in (False, True):
        torch.manual_seed(0)
        model = make()
        model.activation_checkpointing = activation_checkpointing
        hidden = model.hidden(tokens_BT, layout)
        assert len(hidden.layers) == 3
        model.logits(hidden.last_BTE)[0].square().mean().backward()
        results.append([hidden.last_BTE.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(plain, again) for plain, again in zip(*results, strict=True))


def test_recomputation_leaves_a_cache_alone() -> None:
    """A cache is mutated by every call, so a block that has one must run once."""

    class Memory(DirectMemory):
        calls = 0

        def attend(self, *given: Any) -> Attended:
            Memory.calls += 1
            return super().attend(*given)

    model = make()
    model.activation_checkpointing = True

    class Cache:
        lengths = (0,)
        layers = [Memory(model.position, Layout.rows([5]))] * 3

    cache: Any = Cache()
    model(torch.arange(5)[None], cache=cache).sum().backward()
    assert Memory.calls == 3


def test_crossbatch_is_attention_to_the_visible_keys_of_all_rows() -> None:
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    layout = Layout.rows([6, 6])
    query_BHTD, key_BKTD, value_BKTD = (
        torch.randn(2, heads, 6, CONFIG.head_width)
        for heads in (CONFIG.num_heads, CONFIG.num_kv_heads, CONFIG.num_kv_heads)
    )
    asking_Q, visible_QS = torch.tensor([3, 8]), torch.rand(2, 12) < 0.5
    visible_QS[:, 2] = True
    crossed = DirectMemory(model.position, layout, crossbatch=Crossbatch((0,), asking_Q, visible_QS))
    out_BHTD, _ = crossed.attend(query_BHTD, key_BKTD, value_BKTD, layout)
    plain_BHTD, _ = DirectMemory(model.position, layout).attend(query_BHTD, key_BKTD, value_BKTD, layout)
    rotation = model.position.rotation(layout.positions_BTP[..., 0])
    query_BHTD, key_BKTD = (model.position.rotate(x_BHTD, rotation) for x_BHTD in (query_BHTD, key_BKTD))
    expected_BHTD = plain_BHTD.clone()
    for place, visible_S in zip(asking_Q.tolist(), visible_QS, strict=True):
        row, token = divmod(place, 6)
        keys_KSD, values_KSD = (torch.cat(list(x_BKTD), dim=1)[:, visible_S] for x_BKTD in (key_BKTD, value_BKTD))
        asked, _ = attention_with_weights(
            query_BHTD[row : row + 1, :, token : token + 1], keys_KSD[None], values_KSD[None], None, False
        )
        expected_BHTD[row, :, token] = asked[0, :, 0]
    torch.testing.assert_close(out_BHTD, expected_BHTD, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(out_BHTD, plain_BHTD)


def test_hidden_then_logits_is_forward() -> None:
    model, tokens_BT = make(), torch.randint(0, 60, (2, 9))
    hidden = model.hidden(tokens_BT, Layout.rows([9, 9], capture=Capture(layers=True)))
    assert torch.equal(model.logits(hidden.last_BTE), model(tokens_BT))
    last_BTE, _ = model.norm(hidden.layers[-1], Layout.rows([9, 9]))
    assert torch.equal(last_BTE, hidden.last_BTE)


def test_length_beyond_the_trained_window_is_computed() -> None:
    """The trained window is what the weights know, not what the network can take."""
    model = make(max_positions=8)
    wide = make(max_positions=64)
    wide.load_state_dict(model.state_dict())
    tokens_BT = torch.randint(0, 60, (1, 40))
    assert torch.equal(model(tokens_BT), wide(tokens_BT))


def test_copies_are_models_too() -> None:
    model, tokens_BT = make(), torch.randint(0, 60, (1, 9))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(tokens_BT), model(tokens_BT))
        assert copied.config == model.config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width=0: a model needs at least 1"),
        ({"max_positions": -1}, "max_positions=-1"),
        ({"num_kv_heads": 3}, "num_heads=4 is not a multiple of num_kv_heads=3"),
        ({"num_kv_heads": 8}, "num_heads=4 is not a multiple of num_kv_heads=8"),
        ({"head_width": 7}, "head_width=7 with share=1.0: 7 features would be turned, which is odd"),
    ],
)
def test_impossible_configs(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_config_is_a_value() -> None:
    assert dataclasses.replace(CONFIG) == CONFIG
    assert dataclasses.replace(CONFIG, position=RopeOptions(5.0)) != CONFIG
    assert hash(CONFIG) == hash(dataclasses.replace(CONFIG))
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.width = 3  # type: ignore[misc]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["plain", "ragged", "packed"])
def test_wanted_places_are_those_of_the_whole(kind: str, recompute: bool) -> None:
    index_BT = torch.arange(9).expand(2, 9)
    layouts = {
        "plain": None,
        "ragged": Layout.rows([9, 6], size=9),
        "packed": Layout.packed(index_BT, index_BT % 5, index_BT // 5),
    }
    model, layout, tokens_BT = make(), layouts[kind], torch.randint(0, 60, (2, 9))
    model.activation_checkpointing = recompute
    wanted_BQ = torch.tensor([[8, 2, 5], [0, 4, 4]])

    def results(hidden_BQE: Tensor) -> list[Tensor]:
        model.zero_grad()
        hidden_BQE.sin().sum().backward()
        return [hidden_BQE.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    rows = torch.arange(2)[:, None]
    whole = results(model.hidden(tokens_BT, layout).last_BTE[rows, wanted_BQ])
    picked = results(model.hidden(tokens_BT, layout, wanted_BQ=wanted_BQ).last_BTE)
    for expected, got in zip(whole, picked, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
