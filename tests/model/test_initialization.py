"""Who starts with which numbers: the table of `initialize`, its determinism, and heads that start looking back."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from handscroll.model import Capture, Layout, ModelConfig, RopeOptions, Transformer
from handscroll.model.initialization import look_back
from handscroll.model.position import AlibiOptions
from handscroll.model.slots import PositionOptions

CONFIG = ModelConfig(
    vocab_size=700,
    width=256,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_width=96,
    feedforward_width=320,
    max_positions=128,
    qkv_bias=True,
    output_bias=True,
    feedforward_bias=True,
)
# Every weight has more than 49,000 numbers, so its measured std is within 1 % (three sigma) of the drawn one.
TOLERANCE = 0.01


@pytest.mark.parametrize("tied", [False, True])
def test_the_table(tied: bool) -> None:
    model = Transformer(dataclasses.replace(CONFIG, tied_embeddings=tied))
    residual = 1 / math.sqrt(2 * 3)
    stds = {
        "embedding": 1.0,
        "head": 1 / math.sqrt(256),
        **dict.fromkeys(("q", "k", "v", "gate", "up"), 1 / math.sqrt(256)),
        "o": residual / math.sqrt(4 * 96),
        "down": residual / math.sqrt(320),
    }
    seen = set()
    for name, parameter in model.named_parameters():
        module, kind = name.split(".")[-2:]
        if kind == "bias":
            assert not parameter.any(), name
        elif "norm" in module:
            expected = 1 / math.sqrt(256) if tied and name == "norm.weight" else 1.0
            assert (parameter == expected).all(), name
        else:
            seen.add(module)
            assert parameter.std().item() == pytest.approx(stds[module], rel=TOLERANCE), name
            assert abs(parameter.mean().item()) < 4 * stds[module] / math.sqrt(parameter.numel()), name
    assert seen == set(stds) - ({"head"} if tied else set())


@pytest.mark.parametrize("feedforward", ["swiglu", "gelu"])
def test_the_table_of_deepnorm(feedforward: str) -> None:
    """Xavier's formula, with the paper's figures for 3 layers: beta = 24^(-1/4) = 0.4518."""
    model = Transformer(dataclasses.replace(CONFIG, norm_placement="deepnorm", feedforward=feedforward))
    gains = {"q": 1.0, "k": 1.0, "gate": 1.0, **dict.fromkeys(("v", "o", "up", "down"), 0.4518)}
    for name, parameter in model.layers.named_parameters():
        module, kind = name.split(".")[-2:]
        if kind == "weight" and "norm" not in module:
            expected = gains[module] * math.sqrt(2 / sum(parameter.shape))
            assert parameter.std().item() == pytest.approx(expected, rel=TOLERANCE), name


def test_a_tied_deepnorm_does_not_foretell_the_token_that_it_reads() -> None:
    """Of a stream that keeps all of the token, its own logit would be sqrt(256) = 16 with unit embeddings' logits."""
    config = dataclasses.replace(CONFIG, norm_placement="deepnorm", num_layers=8, tied_embeddings=True)
    model = Transformer(config)
    assert model.embedding.weight.std().item() == pytest.approx(1 / 256, rel=TOLERANCE)
    tokens_BT = torch.arange(64).reshape(2, 32)
    with torch.no_grad():
        own_BT = model(tokens_BT).gather(2, tokens_BT[..., None])
    assert 0 < own_BT.mean().item() < 1.1
    post = Transformer(dataclasses.replace(config, norm_placement="post"))
    assert post.embedding.weight.std().item() == pytest.approx(1 / 16, rel=TOLERANCE)


def test_norms_after_each_half_of_a_sandwich_keep_the_streams_size() -> None:
    model = Transformer(dataclasses.replace(CONFIG, norm_placement="sandwich", num_layers=8))
    for name, parameter in model.layers.named_parameters():
        if "norm" in name:
            assert (parameter == (1 / 4 if "out_norm" in name else 1.0)).all(), name
        elif name.endswith((".o.weight", ".down.weight")):
            assert parameter.std().item() == pytest.approx(parameter.shape[1] ** -0.5, rel=TOLERANCE)
    with torch.no_grad():
        layout = Layout.rows([32] * 2, capture=Capture(layers=True))
        layers = model.hidden(torch.arange(64).reshape(2, 32), layout).layers
    # 16 additions of unit size / 4: a stream of size 1 ends at sqrt(2).
    assert layers[-1].std().item() == pytest.approx(2**0.5, rel=0.1)


@pytest.mark.parametrize("tied", [False, True])
def test_logits_start_with_std_one(tied: bool) -> None:
    model = Transformer(dataclasses.replace(CONFIG, tied_embeddings=tied))
    tokens_BT = torch.arange(64).reshape(2, 32)
    with torch.no_grad():
        others = model(tokens_BT)[..., 64:]  # a tied head knows the token that it reads
    assert others.std().item() == pytest.approx(1, abs=0.1)


def test_one_seed_one_model() -> None:
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in Transformer(CONFIG, seed).parameters()])

    torch.manual_seed(1)
    first = weights(7)
    torch.manual_seed(2)
    assert torch.equal(weights(7), first)
    assert not torch.equal(weights(8), first)


def test_layers_differ() -> None:
    first, second, _ = Transformer(CONFIG).layers
    assert not torch.equal(first.attention.q.weight, second.attention.q.weight)


def looked_back(
    num_heads: int, num_kv_heads: int, *, noise: bool, position: PositionOptions = CONFIG.position
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of the first layer: the mean by head and distance (H, 16), and all of them (B, H, T, S)."""
    changes = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_width": 64, "position": position}
    model = Transformer(dataclasses.replace(CONFIG, **changes))
    look_back(model)
    attention = model.layers[0].attention
    if not noise:
        torch.nn.init.zeros_(attention.q.weight)
        torch.nn.init.zeros_(attention.k.weight)
    with torch.no_grad():
        tokens_BT = torch.randint(0, 700, (4, 100))
        layout = Layout.rows([100] * 4, capture=Capture(weights=True))
        weights_BHTS = model.hidden(tokens_BT, layout).weights[0]
    by_distance = [weights_BHTS.diagonal(-distance, 2, 3)[..., 20:].mean((0, 2)) for distance in range(16)]
    return torch.stack(by_distance, 1), weights_BHTS


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(2, 2), (4, 2), (4, 1)])
def test_heads_look_back(num_heads: int, num_kv_heads: int) -> None:
    """Head h reads h + 1 tokens back: always where content says nothing, nearly always with the drawn weights."""
    _, weights_BHTS = looked_back(num_heads, num_kv_heads, noise=False)
    for head in range(num_heads):
        distances = torch.arange(100) - weights_BHTS[:, head].argmax(-1)
        assert (distances[:, head + 1 :] == head + 1).all()
    mean_HD, _ = looked_back(num_heads, num_kv_heads, noise=True)
    assert mean_HD.argmax(1).tolist() == [head + 1 for head in range(num_heads)]
    # Its neighbours get next to nothing, although low frequencies hardly tell them apart.
    assert (mean_HD.max(1).values > 0.9).all()


@pytest.mark.parametrize(("pairing", "share"), [("adjacent", 1.0), ("halves", 0.5), ("adjacent", 0.75)])
def test_heads_look_back_with_what_is_turned(pairing: str, share: float) -> None:
    position = RopeOptions(pairing=pairing, share=share)
    mean_HD, _ = looked_back(2, 1, noise=True, position=position)
    assert mean_HD.argmax(1).tolist() == [1, 2]
    assert (mean_HD.max(1).values > 0.6).all()


def test_looking_back_needs_biases() -> None:
    model = Transformer(dataclasses.replace(CONFIG, qkv_bias=False))
    with pytest.raises(ValueError, match=r"qkv_bias=False: .*use qkv_bias=True"):
        look_back(model)


def test_looking_back_needs_positions_that_turn() -> None:
    model = Transformer(dataclasses.replace(CONFIG, position=AlibiOptions()))
    with pytest.raises(ValueError, match=r"AlibiOptions\(\) turns neither q nor k: looking back needs rotary"):
        look_back(model)


def test_looking_back_changes_only_what_scores_in_the_first_layer() -> None:
    model, plain = Transformer(CONFIG), Transformer(CONFIG)
    look_back(model)
    changed = {
        name
        for (name, parameter), before in zip(model.named_parameters(), plain.parameters(), strict=True)
        if not torch.equal(parameter, before)
    }
    assert changed == {f"layers.0.attention.{name}.{part}" for name in "qk" for part in ("weight", "bias")}
