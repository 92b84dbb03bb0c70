"""Whatever computes attention, a model says and learns the same, under every mask; flash never makes a mask of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from handscroll.kernels import flash_attention
from handscroll.kernels.attention import KERNELS
from handscroll.model import Capture, Layout, ModelConfig, Transformer
from handscroll.model.position import AlibiOptions, DynamicAlibiOptions

CONFIG = ModelConfig(
    vocab_size=50,
    width=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_width=8,
    feedforward_width=40,
    max_positions=16,
)
LENGTH = 21
TOKENS_BT = torch.randint(0, 50, (2, LENGTH), generator=torch.Generator().manual_seed(0))
LAYOUTS = {
    "rows": Layout.rows([LENGTH, LENGTH]),
    "padding": Layout.rows([LENGTH, 9], size=LENGTH),
    "documents": Layout.packed(
        torch.cat((torch.arange(17), torch.full((4,), -1))).expand(2, -1),
        torch.cat((torch.arange(10), torch.arange(7), torch.zeros(4, dtype=torch.long))).expand(2, -1),
        torch.cat((torch.zeros(10), torch.ones(7), torch.full((4,), -1))).long().expand(2, -1),
    ),
    "prefix": dataclasses.replace(Layout.rows([LENGTH, 12], size=LENGTH), prefix_BT=torch.tensor([[9], [0]])),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "causal": {},
    "windowed_from_second": {"sliding_window": 6, "windowed_from": 1},
    "alibi": {"position": AlibiOptions()},
    "stretched_alibi_window": {"position": DynamicAlibiOptions(), "sliding_window": 12},
    "prefix": {"mask": "prefix"},
    "bidirectional": {"mask": "bidirectional", "position": AlibiOptions()},
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_attention, "TILE", 8)


def results(model: Transformer, layout: Layout, wanted_BQ: Tensor | None) -> list[Tensor]:
    """Hidden states of real tokens, and what their sum of squares says to every parameter."""
    last_BTE = model.hidden(TOKENS_BT, layout, wanted_BQ=wanted_BQ).last_BTE
    index_BT = layout.index_BT if wanted_BQ is None else layout.index_BT.gather(1, wanted_BQ)
    real_NE = last_BTE[index_BT >= 0]
    model.zero_grad()
    (real_NE * torch.linspace(-1, 1, 32)).sum().backward()
    return [real_NE.detach(), *(parameter.grad for name, parameter in model.named_parameters() if "head" not in name)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("wanted", [None, [[8, 20, 0], [3, 8, 7]]], ids=["all", "some"])
def test_kernels_agree(config: str, layout: str, wanted: list[list[int]] | None) -> None:
    model = Transformer(dataclasses.replace(CONFIG, **CONFIGS[config]))
    wanted_BQ = None if wanted is None else torch.tensor(wanted)
    found = {}
    for kernel in KERNELS:
        model.attend_by(kernel)
        found[kernel] = results(model, LAYOUTS[layout], wanted_BQ)
    for kernel in ("fused", "flash"):
        for ours, slow in zip(found[kernel], found["naive"], strict=True):
            torch.testing.assert_close(ours, slow, atol=3e-5, rtol=1e-4)


def test_flash_makes_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    seen_by = Layout.seen_by

    def noted(self: Layout, asking: Layout, window: int | None, kind: str) -> Tensor:
        sizes.append((made := seen_by(self, asking, window, kind)).numel())
        return made

    monkeypatch.setattr(Layout, "seen_by", noted)
    model = Transformer(CONFIG)
    model.attend_by("flash")
    results(model, LAYOUTS["documents"], None)
    assert max(sizes) == 2 * 8 * 8
    model.attend_by("fused")
    results(model, LAYOUTS["documents"], None)
    assert max(sizes) == 2 * LENGTH * LENGTH


def test_weights_are_captured_under_every_kernel() -> None:
    model = Transformer(CONFIG)
    layout = Layout.rows([LENGTH, LENGTH], capture=Capture(weights=True))
    captured = []
    for kernel in KERNELS:
        model.attend_by(kernel)
        captured.append(model.hidden(TOKENS_BT, layout).weights[1])
    assert torch.equal(captured[0], captured[1])
    assert torch.equal(captured[0], captured[2])


def test_naive_drops_weights() -> None:
    model = Transformer(dataclasses.replace(CONFIG, attention_dropout=0.5, num_layers=1)).train()
    model.attend_by("naive")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (model(TOKENS_BT) for _ in "12")
    assert not torch.equal(first, second)
    assert torch.equal(model.eval()(TOKENS_BT), model(TOKENS_BT))


def test_what_a_kernel_can_not_do_is_refused() -> None:
    model = Transformer(dataclasses.replace(CONFIG, attention_dropout=0.1))
    with pytest.raises(ValueError, match="attention_kernel='fast' is not known; known: fused, flash, naive"):
        model.attend_by("fast")
    with pytest.raises(ValueError, match=r"attention_kernel=flash never has all weights, to drop 0\.1 of them"):
        model.attend_by("flash")
    assert model.attention_kernel == "fused"
