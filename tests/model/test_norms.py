"""Norms beside what others compute: torch's BatchNorm on the real tokens, PowerNorm's algorithm step by step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handscroll.model import Layout, ModelConfig, Transformer, load_model, save_model
from handscroll.model.config import RUNNING_NORMS
from handscroll.model.footprint import parameter_count
from handscroll.model.norm import NORMS, RunningNorm
from handscroll.model.norm.batch import BatchNorm, BatchStatistics
from handscroll.model.norm.power import PowerNorm, PowerStatistics
from handscroll.model.norm.tutorial_layer import TutorialLayerNorm
from handscroll.model.routing import ExpertOptions
from handscroll.model.slots import NormStatistics

CONFIG = ModelConfig(50, 32, 2, 4, 2, 8, 40, 64)
TOKENS_BT = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
PADDED = Layout.rows([9, 5, 7], size=9)


def started(norm: Any, seed: int = 1) -> Any:
    """Weights that aren't one and zero, and running statistics of a new model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    if isinstance(norm, RunningNorm):
        norm.forget()
    return norm.train()


def batches(count: int, layout: Layout = PADDED, width: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    shape = (*layout.index_BT.shape, width)
    return [2 + (1 + step) * torch.randn(shape, generator=generator) for step in range(count)]


@pytest.mark.parametrize("layout", [PADDED, Layout.rows([9, 9, 9])])
@pytest.mark.parametrize("momentum", [0.1, 0.3])
def test_batch_norm_is_torchs_on_the_real_tokens(layout: Layout, momentum: float) -> None:
    ours = started(BatchNorm(6, 1e-3, NormStatistics(momentum, warmup=0)))
    theirs = nn.BatchNorm1d(6, 1e-3, momentum)
    theirs.load_state_dict({"weight": ours.weight, "bias": ours.bias}, strict=False)
    real = layout.index_BT >= 0
    for x_BTE in batches(3, layout):
        mine, other = x_BTE.clone().requires_grad_(), x_BTE.clone().requires_grad_()
        out_BTE, told = ours(mine, layout)
        out_NE = theirs(other[real])
        torch.testing.assert_close(out_BTE[real], out_NE, atol=1e-5, rtol=1e-5)
        # A loss that isn't the same at every token, and looks at real ones alone.
        out_BTE[real].pow(3).sum().backward()
        out_NE.pow(3).sum().backward()
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, atol=1e-3, rtol=1e-4)
        ours.update([told])
        torch.testing.assert_close(ours.mean, theirs.running_mean)
        torch.testing.assert_close(ours.variance, theirs.running_var)
    x_BTE = batches(1, layout)[0]
    out_BTE, told = ours.eval()(x_BTE, layout)
    assert told is None
    torch.testing.assert_close(out_BTE[real], theirs.eval()(x_BTE[real]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", RUNNING_NORMS)
def test_what_stands_at_padding_changes_nothing(name: str) -> None:
    norms, x_BTE = [started(NORMS[name](6, 1e-6, NormStatistics(warmup=1))) for _ in range(2)], batches(1)[0]  # type: ignore[call-arg]
    real = PADDED.index_BT >= 0
    for _ in range(3):
        outs = []
        for norm, at_padding in zip(norms, (0.0, 1e6), strict=True):
            inner = x_BTE.masked_fill(~real[..., None], at_padding).requires_grad_()
            out_BTE, told = norm(inner, PADDED)
            out_BTE[real].pow(3).sum().backward()
            assert not inner.grad[~real].any()
            norm.update([told])
            outs.append((out_BTE[real], inner.grad[real]))
        assert all(torch.equal(*pair) for pair in zip(*outs, strict=True))
    for mine, other in zip(norms[0].state_dict().values(), norms[1].state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def power_step(state: dict[str, Any], x_NE: Tensor, upstream_NE: Tensor, weight_E: Tensor, eps: float) -> Any:
    """One step of the algorithm of PN, token by token: the output without bias, the gradient of x and of the weight."""
    tokens, width = x_NE.shape
    out, x_gradient, weight_gradient = torch.zeros(tokens, width), torch.zeros(tokens, width), torch.zeros(width)
    for e in range(width):
        psi = (state["psi2"][e] + eps) ** 0.5
        gamma = lam = mean_square = 0.0
        for n in range(tokens):
            normed = float(x_NE[n, e]) / psi
            inner = float(upstream_NE[n, e] * weight_E[e])
            out[n, e] = float(weight_E[e]) * normed
            x_gradient[n, e] = (inner - state["nu"][e] * normed) / psi
            weight_gradient[e] += float(upstream_NE[n, e]) * normed
            gamma += normed**2 / tokens
            lam += inner * normed / tokens
            mean_square += float(x_NE[n, e]) ** 2 / tokens
        share = 1 - state["alpha"]
        state["psi2"][e] += share * (mean_square - state["psi2"][e])
        state["nu"][e] = state["nu"][e] * (1 - share * gamma) + share * lam
    return out, x_gradient, weight_gradient


@pytest.mark.parametrize("layout", [PADDED, Layout.rows([9, 9, 9])])
def test_power_norm_is_the_papers_algorithm(layout: Layout) -> None:
    norm = started(PowerNorm(6, 1e-3, NormStatistics(momentum=0.2, warmup=0)))
    state = {"psi2": [1.0] * 6, "nu": [0.0] * 6, "alpha": 0.8}
    real = layout.index_BT >= 0
    for step, x_BTE in enumerate(batches(4, layout)):
        upstream_BTE = torch.randn(x_BTE.shape, generator=torch.Generator().manual_seed(step)) + 0.5
        upstream_BTE = upstream_BTE.masked_fill(~real[..., None], 0)
        weight_E = norm.weight.detach()
        expected = power_step(state, x_BTE[real], upstream_BTE[real], weight_E, 1e-3)
        x_BTE.requires_grad_()
        norm.zero_grad()
        out_BTE, told = norm(x_BTE, layout)
        out_BTE.backward(upstream_BTE)
        norm.update([told])
        got = (out_BTE[real] - norm.bias, x_BTE.grad[real], norm.weight.grad)
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(norm.quadratic_mean, torch.tensor(state["psi2"]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(norm.gradient_mean, torch.tensor(state["nu"]), atol=1e-5, rtol=1e-4)
    assert norm.gradient_mean.abs().min() > 0.01
    out_BTE, told = norm.eval()(x_BTE, layout)
    assert told is None
    by_running = x_BTE / (torch.tensor(state["psi2"]) + 1e-3).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(out_BTE, by_running, atol=1e-4, rtol=1e-4)


def test_power_norm_warms_up_by_the_batch_itself() -> None:
    """Exactly the derivative of a division by the batch's own quadratic mean, as autograd has it."""
    norm, real = started(PowerNorm(6, 1e-3, NormStatistics(momentum=0.1, warmup=3))), PADDED.index_BT >= 0
    means = []
    for x_BTE in batches(3):
        mine, other = x_BTE.clone().requires_grad_(), x_BTE.clone().requires_grad_()
        out_BTE, told = norm(mine, PADDED)
        mean_E = other[real].square().mean(0)
        own_BTE = other / (mean_E + 1e-3).sqrt() * norm.weight + norm.bias
        torch.testing.assert_close(out_BTE[real], own_BTE[real])
        out_BTE[real].pow(3).sum().backward()
        own_BTE[real].pow(3).sum().backward()
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4)
        norm.update([told])
        means.append(mean_E.detach())
        torch.testing.assert_close(norm.quadratic_mean, torch.stack(means).mean(0))
    assert not norm.in_warmup()
    # From here on a batch has no part in its own scale.
    x_BTE = batches(1)[0].detach()
    torch.testing.assert_close(norm(2 * x_BTE, PADDED)[0] - norm.bias, 2 * (norm(x_BTE, PADDED)[0] - norm.bias))


@pytest.mark.parametrize("name", RUNNING_NORMS)
def test_parts_of_a_step_count_as_one_batch(name: str) -> None:
    x_BTE = torch.cat(batches(2))
    layouts = [PADDED, Layout.rows([4, 9, 1], size=9)]
    whole = Layout.rows([9, 5, 7, 4, 9, 1], size=9)
    norms = [started(NORMS[name](6, 1e-6, NormStatistics(0.3, warmup=0))) for _ in range(2)]  # type: ignore[call-arg]
    norms[0].update([norms[0](x_BTE, whole)[1]])
    norms[1].update([norms[1](part, layout)[1] for part, layout in zip(x_BTE.split(3), layouts, strict=True)])
    for mine, other in zip(norms[0].state_dict().values(), norms[1].state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [4, 128])
def test_tutorial_layer_norm_beside_the_standard_one(width: int) -> None:
    """By torch.std; smaller by sqrt((E - 1) / E) for eps -> 0; without spread 1 / sqrt(eps) times the gradient."""
    norm, x_BTE = started(TutorialLayerNorm(width, 1e-3)), batches(1, width=width)[0]
    written_BTE = (
        norm.weight * (x_BTE - x_BTE.mean(-1, keepdim=True)) / (x_BTE.std(-1, keepdim=True) + 1e-3) + norm.bias
    )
    torch.testing.assert_close(norm(x_BTE, PADDED)[0], written_BTE)
    tutorial, standard = (NORMS[name](width, 1e-12) for name in ("tutorial_layer", "layer"))
    for each in (tutorial, standard):
        nn.init.ones_(each.weight)
        nn.init.zeros_(each.bias)  # type: ignore[arg-type]
    factor = ((width - 1) / width) ** 0.5
    torch.testing.assert_close(tutorial(x_BTE, PADDED)[0], factor * standard(x_BTE, PADDED)[0], atol=1e-5, rtol=1e-5)
    tutorial.eps = standard.eps = 1e-6
    still_BTE = (3 + 1e-9 * x_BTE.double()).requires_grad_()
    sizes = []
    for each in (tutorial.double(), standard.double()):
        # Of a spread of 1e-9 both denominators are eps alone, each in its place.
        (gradient,) = torch.autograd.grad(each(still_BTE, PADDED)[0][..., 0].sum(), still_BTE)
        sizes.append(gradient.abs().max().item())
    assert sizes[0] / sizes[1] == pytest.approx(1e-6**-0.5, rel=0.02)


MIXES: list[dict[str, Any]] = [
    *({"norm": name, "qk_norm": name not in RUNNING_NORMS} for name in NORMS),
    *({"feedforward_norm": name, "feedforward": "relu" if name == "batch" else "swiglu"} for name in NORMS),
    {"norm": "batch", "norm_placement": "sandwich", "feedforward_norm": "power", "shared_layers": True},
    {"norm": "power", "experts": ExpertOptions(4, 16)},
]


def moved(model: Transformer) -> Transformer:
    """Running statistics that no new model has."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "norm" in name:
                buffer.add_(torch.rand(buffer.shape, generator=torch.Generator().manual_seed(3)))
    return model


@pytest.mark.parametrize("changes", MIXES, ids=str)
def test_every_norm_is_counted_saved_and_has_a_cache(changes: dict[str, Any], tmp_path: Path) -> None:
    from handscroll.kvcache import make_policy

    config = dataclasses.replace(CONFIG, **changes)
    model = moved(Transformer(config))
    assert parameter_count(config) == sum(parameter.numel() for parameter in model.parameters())
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.config == config
    logits_BTV = model(TOKENS_BT)
    assert torch.equal(again(TOKENS_BT), logits_BTV)
    cache = make_policy("full").start(config, model.position, 2)
    parts = [model(part, cache=cache) for part in TOKENS_BT.split([4, 1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), logits_BTV, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", MIXES, ids=str)
def test_which_are_wanted_has_no_part_in_statistics(changes: dict[str, Any]) -> None:
    model = Transformer(dataclasses.replace(CONFIG, **changes)).train()
    layout, wanted_BQ = Layout.rows([9, 6], size=9), torch.tensor([[7, 2], [0, 5]])
    whole, some = model.hidden(TOKENS_BT, layout), model.hidden(TOKENS_BT, layout, wanted_BQ=wanted_BQ)
    torch.testing.assert_close(some.last_BTE, whole.last_BTE.gather(1, wanted_BQ[..., None].expand(-1, -1, 32)))
    assert [name for name, _ in whole.aux] == [name for name, _ in some.aux]
    for (_, mine), (_, other) in zip(whole.aux, some.aux, strict=True):
        if isinstance(mine, BatchStatistics | PowerStatistics):
            assert all(torch.equal(*pair) for pair in zip(mine, other, strict=True))  # type: ignore[call-overload]
    told = [aux for _, aux in whole.aux if isinstance(aux, BatchStatistics | PowerStatistics)]
    assert bool(told) == model.config.has_running_norms
    told = [aux for _, aux in model.eval().hidden(TOKENS_BT, layout).aux]
    assert not any(isinstance(aux, BatchStatistics | PowerStatistics) for aux in told)


@pytest.mark.parametrize("name", NORMS)
def test_the_norm_within_a_feed_forward_is_of_what_down_reads(name: str) -> None:
    model = Transformer(dataclasses.replace(CONFIG, feedforward_norm=name, feedforward="gelu", norm_eps=1e-3))
    feedforward = model.layers[0].feedforward
    assert isinstance(feedforward.norm, NORMS[name])
    x_BTE, layout = torch.randn(2, 9, 32), Layout.rows([9, 9])
    inner_BTF = nn.functional.gelu(x_BTE @ feedforward.up.weight.T)
    expected_BTE = feedforward.norm(inner_BTF, layout)[0] @ feedforward.down.weight.T
    torch.testing.assert_close(feedforward(x_BTE, layout)[0], expected_BTE)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"norm": "batch", "qk_norm": True}, "qk_norm=True with norm='batch': .* by rms or layer"),
        ({"feedforward_norm": "batch", "experts": ExpertOptions(4, 16)}, "feedforward_norm='batch' with experts"),
        ({"norm_statistics": NormStatistics(0.5)}, "norm_statistics are for norms batch and power"),
    ],
)
def test_what_can_not_be_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(("momentum", "warmup", "says"), [(0.0, 0, "momentum=0.0"), (1.5, 0, "1.5"), (0.1, -1, "-1")])
def test_statistics_out_of_range_are_refused(momentum: float, warmup: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        NormStatistics(momentum, warmup)


def test_an_unknown_norm_within_is_refused() -> None:
    with pytest.raises(ValueError, match="feedforward_norm='bath' is not known; known: rms, layer"):
        Transformer(dataclasses.replace(CONFIG, feedforward_norm="bath"))
