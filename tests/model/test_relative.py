"""Transformer-XL's positions equal the paper's equations, written out pair by pair; a memory is what came before."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handscroll.model import Capture, Layout, ModelConfig, Transformer, load_model, save_model
from handscroll.model.attention import GroupedQueryAttention
from handscroll.model.footprint import parameter_count
from handscroll.model.memory import DirectMemory
from handscroll.model.position import Relative, RelativeOptions, of_layer

CONFIG = ModelConfig(
    vocab_size=50,
    width=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_width=6,
    feedforward_width=40,
    max_positions=64,
    position=RelativeOptions(),
)
TOKENS_BT = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))


def randomized(**changes: Any) -> Transformer:
    model = Transformer(dataclasses.replace(CONFIG, **changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (model.position.u, model.position.v):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def weights_by_the_paper(model: Transformer, layer: int, x_BTE: Tensor, distance_BTT: Tensor, sees: Tensor) -> Tensor:
    """(B, H, T, T): softmax of terms (a) + (b) + (c) + (d) of section 3.3, one pair of tokens after the other."""
    config, attention, position = model.config, model.layers[layer].attention, model.position
    assert isinstance(position, Relative)
    batch, length, width = x_BTE.shape
    scores = torch.full((batch, config.num_heads, length, length), -math.inf)
    matrix = position.r[layer].weight.view(config.num_heads, config.head_width, width)
    for b in range(batch):
        q = attention.q(x_BTE[b]).view(length, config.num_heads, -1)
        k = attention.k(x_BTE[b]).view(length, config.num_kv_heads, -1).repeat_interleave(2, 1)
        for i in range(length):
            for j in range(length):
                if not sees[b, i, j]:
                    continue
                steps = [float(distance_BTT[b, i, j]) / 10000 ** (2 * n / width) for n in range(width // 2)]
                sinusoid_E = torch.tensor([*map(math.sin, steps), *map(math.cos, steps)])
                for h in range(config.num_heads):
                    far_D = matrix[h] @ sinusoid_E
                    terms = q[i, h] @ k[j, h], q[i, h] @ far_D, position.u[h] @ k[j, h], position.v[h] @ far_D
                    scores[b, h, i, j] = sum(terms) / math.sqrt(config.head_width)
    return scores.softmax(-1)


def far_apart() -> Layout:
    """Positions that skip, as where a short window stands for a long one."""
    positions_BT = torch.tensor([[0, 1, 2, 50, 51, 900, 901, 902, 903]] * 2)
    return dataclasses.replace(Layout.rows([9, 9]), starts=None, lengths=None, positions_BTP=positions_BT[..., None])


LAYOUTS = {
    "rows": Layout.rows([9, 9]),
    "later": Layout.rows([9, 9], [3, 3]),
    "padding": Layout.rows([9, 6], size=9),
    "skipped": far_apart(),
    "documents": Layout.packed(
        torch.arange(9).expand(2, -1),
        torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4], [0, 1, 0, 1, 2, 3, 4, 5, 6]]),
        torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1, 1]]),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
@torch.no_grad()
def test_scores_are_the_papers(layout: str, mask: str) -> None:
    model = randomized(mask=mask)
    seen = dataclasses.replace(LAYOUTS[layout], capture=Capture(weights=True))
    x_BTE = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(4))
    positions_BT = seen.positions_BTP[..., 0]
    sees = seen.seen_by(seen, None, mask)
    real = seen.index_BT >= 0
    for layer in range(2):
        memory = DirectMemory(of_layer(model.position, layer), seen, kind=mask)
        attention = model.layers[layer].attention
        assert isinstance(attention, GroupedQueryAttention)
        out_BTE, weights_BHTS = attention(x_BTE, memory, seen)
        expected = weights_by_the_paper(model, layer, x_BTE, positions_BT[:, :, None] - positions_BT[:, None], sees)
        torch.testing.assert_close(
            weights_BHTS.transpose(1, 2)[real], expected.transpose(1, 2)[real], atol=1e-5, rtol=0
        )
        plain = dataclasses.replace(seen, capture=Capture())
        fast_BTE, _ = attention(x_BTE, memory, plain)
        torch.testing.assert_close(fast_BTE[real], out_BTE[real], atol=1e-5, rtol=0)


def test_gradients_reach_every_weight_and_equal_the_slow_kernels() -> None:
    model = randomized()
    gradients = []
    for kernel in ("fused", "naive"):
        model.attend_by(kernel)
        model.zero_grad()
        model(TOKENS_BT).logsumexp(-1).sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert {"position.u", "position.v", "position.r.0.weight", "position.r.1.weight"} <= set(gradients[0])
    for name, grad in gradients[0].items():
        assert grad.abs().sum() > 0, name
        torch.testing.assert_close(grad, gradients[1][name], atol=1e-5, rtol=1e-4)


def test_later_tokens_change_nothing_and_places_nothing_but_distance_does() -> None:
    model = randomized()
    whole = model(TOKENS_BT)
    torch.testing.assert_close(model(TOKENS_BT[:, :5]), whole[:, :5], atol=1e-5, rtol=0)
    torch.testing.assert_close(model(TOKENS_BT, Layout.rows([9, 9], [777, 3])), whole, atol=1e-5, rtol=0)
    other = dataclasses.replace(Layout.rows([9, 9]), starts=None, lengths=None)
    stretched = dataclasses.replace(other, positions_BTP=3 * other.positions_BTP)
    assert (model(TOKENS_BT, stretched)[:, 1:] - whole[:, 1:]).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("changes", [{}, {"shared_layers": True, "num_kv_heads": 1}, {"tied_embeddings": True}])
def test_is_saved_and_counted(changes: dict[str, Any], tmp_path: Path) -> None:
    model = randomized(**changes)
    assert parameter_count(model.config) == sum(parameter.numel() for parameter in model.parameters())
    save_model(model, tmp_path / "out")
    again = load_model(tmp_path / "out")
    assert again.config == model.config
    assert torch.equal(again(TOKENS_BT), model(TOKENS_BT))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="width=33 is odd: relative positions have sines and cosines in pairs"):
        Transformer(dataclasses.replace(CONFIG, width=33))
    with pytest.raises(ValueError, match="attention_kernel=flash can't learn what relative positions add"):
        Transformer(CONFIG).attend_by("flash")
