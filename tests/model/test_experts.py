"""Experts against the definition, token by token, and the router's losses against transformers' and the formulas."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from handscroll.kvcache import Full
from handscroll.model import Layout, ModelConfig, Transformer
from handscroll.model.checkpoint import lay_by_columns, load_model, save_model
from handscroll.model.experts import Experts
from handscroll.model.footprint import matrix_count, parameter_count
from handscroll.model.routing import ExpertOptions, Routed, balance_loss, z_loss_sum

CONFIG = ModelConfig(
    vocab_size=50,
    width=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_width=12,
    feedforward_width=40,
    max_positions=64,
    experts=ExpertOptions(5, 16),
)
VARIANTS = [
    ExpertOptions(5, 16),
    ExpertOptions(4, 16, top_k=1, renormalize=False),
    ExpertOptions(3, 20, top_k=3, shared_width=28),
    ExpertOptions(8, 8, top_k=4, renormalize=False, shared_width=12, shared_gate=True),
]
LENGTHS = (7, 3, 5)


def slowly(module: Experts, x_BTE: Tensor, layout: Layout, capacity: int | None = None) -> Tensor:
    """The definition: one token after the other, and of each one expert after the other."""
    options = module.options
    tokens = [(b, t) for b in range(len(x_BTE)) for t in range(x_BTE.shape[1]) if layout.index_BT[b, t] >= 0]
    probs = {place: (x_BTE[place] @ module.router.weight.T).softmax(-1) for place in tokens}
    choices = {place: probs[place].argsort(descending=True)[: options.top_k].tolist() for place in tokens}
    free = [capacity if capacity is not None else len(tokens)] * options.count
    taken = {place: [] for place in tokens}
    for rank in range(options.top_k):
        for place in tokens:
            expert = choices[place][rank]
            if free[expert]:
                free[expert] -= 1
                taken[place].append(expert)
    rows = []
    for b in range(len(x_BTE)):
        for t in range(x_BTE.shape[1]):
            x_E, out_E = x_BTE[b, t], torch.zeros(x_BTE.shape[-1])
            if (b, t) in probs:
                total = probs[b, t][choices[b, t]].sum() if options.renormalize else 1.0
                for expert in taken[b, t]:
                    out_E = out_E + probs[b, t][expert] / total * module.experts[expert](x_E, layout)[0]
            if options.shared_width:
                shared_E = module.shared(x_E, layout)[0]
                out_E = out_E + (module.shared_gate(x_E).sigmoid() * shared_E if options.shared_gate else shared_E)
            rows.append(out_E)
    return torch.stack(rows).view_as(x_BTE)


def made(options: ExpertOptions, **changes: Any) -> tuple[Experts, Tensor, Layout]:
    torch.manual_seed(0)
    model = Transformer(dataclasses.replace(CONFIG, experts=options, **changes))
    x_BTE = torch.randn(len(LENGTHS), max(LENGTHS), CONFIG.width, requires_grad=True)
    return model.layers[0].feedforward, x_BTE, Layout.rows(LENGTHS)


def assert_equal_with_gradients(module: Experts, x_BTE: Tensor, ours: Tensor, slow: Tensor) -> None:
    torch.testing.assert_close(ours, slow, atol=1e-5, rtol=0)
    inputs = [x_BTE, *module.parameters()]
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3))
    expected = torch.autograd.grad((slow * weight).sum(), inputs, allow_unused=True)
    for found, other in zip(torch.autograd.grad((ours * weight).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(found, torch.zeros_like(found) if other is None else other, atol=1e-5, rtol=0)
    if module.options.top_k > 1 or not module.options.renormalize:
        assert expected[1].abs().sum() > 0, "the router learns from what its experts gave"


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("bias", [False, True])
def test_experts_equal_the_definition(options: ExpertOptions, bias: bool) -> None:
    module, x_BTE, layout = made(options, feedforward_bias=bias)
    ours, routed = module(x_BTE, layout)
    assert_equal_with_gradients(module, x_BTE, ours, slowly(module, x_BTE, layout))
    assert (routed.tokens, routed.choices, routed.dropped) == (sum(LENGTHS), sum(LENGTHS) * options.top_k, 0)


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_capacity_in_training(factor: float) -> None:
    """First choices before second ones, earlier tokens before later ones; what finds no place is left out."""
    module, x_BTE, layout = made(ExpertOptions(5, 16, capacity_factor=factor))
    capacity = math.ceil(factor * 2 * sum(LENGTHS) / 5)
    whole, _ = module(x_BTE, layout)
    torch.testing.assert_close(whole, slowly(module, x_BTE, layout), atol=1e-5, rtol=0)
    module.train()
    ours, routed = module(x_BTE, layout)
    assert_equal_with_gradients(module, x_BTE, ours, slowly(module, x_BTE, layout, capacity))
    assert routed.dropped == sum(max(0, asked - capacity) for asked in routed.asked)
    assert (routed.dropped > 0) == (factor <= 1)


def test_padding_takes_nothing() -> None:
    """Whatever stands there, no expert sees it, and no loss or capacity counts it."""
    module, x_BTE, layout = made(ExpertOptions(5, 16, capacity_factor=1.0))
    module.train()
    out_BTE, routed = module(x_BTE, layout)
    real_BT = layout.index_BT >= 0
    other_BTE, again = module(torch.where(real_BT[..., None], x_BTE, 100.0), layout)
    assert torch.equal(out_BTE, other_BTE)
    assert not out_BTE[~real_BT].any()
    alone_1TE, alone = module(x_BTE[real_BT][None], Layout.rows([sum(LENGTHS)]))
    torch.testing.assert_close(out_BTE[real_BT], alone_1TE[0])
    for each in (again, alone):
        assert (each.asked, each.dropped) == (routed.asked, routed.dropped)
        torch.testing.assert_close(balance_loss(each), balance_loss(routed))
        torch.testing.assert_close(z_loss_sum(each), z_loss_sum(routed))


def test_nothing_but_padding() -> None:
    module, x_BTE, _ = made(ExpertOptions(5, 16))
    with torch.no_grad():
        out_BTE, routed = module(x_BTE[:1], Layout.rows([0], size=7))
    assert not out_BTE.any()
    assert balance_loss(routed) == z_loss_sum(routed) == 0


@pytest.mark.parametrize("options", VARIANTS)
def test_losses_equal_transformers_and_the_formula(options: ExpertOptions) -> None:
    module, x_BTE, layout = made(options)
    _, routed = module(x_BTE, layout)
    mask_BT = layout.index_BT >= 0
    theirs = load_balancing_loss_func((routed.logits_MN,), options.count, options.top_k, mask_BT)
    torch.testing.assert_close(balance_loss(routed), theirs, atol=1e-5, rtol=0)
    logits_MN = routed.logits_MN[mask_BT.flatten()]
    torch.testing.assert_close(z_loss_sum(routed), logits_MN.exp().sum(-1).log().square().sum(), atol=1e-4, rtol=0)
    # Even routing, the best that there is, gives K.
    even_MN = torch.full((options.count, options.count), 1 / options.count)
    everyone_M = torch.ones(options.count, dtype=torch.bool)
    even = Routed(even_MN.log(), even_MN, everyone_M, (options.top_k,) * options.count, 0, options.top_k)
    assert balance_loss(even) == pytest.approx(options.top_k)
    assert z_loss_sum(even) == pytest.approx(0, abs=1e-9)


def test_training_of_the_balance_loss_evens_the_load() -> None:
    module, x_BTE, layout = made(ExpertOptions(5, 16))
    with torch.no_grad():
        module.router.weight[0] = 3 * x_BTE.detach().flatten(0, 1).mean(0)
    x_BTE = x_BTE.detach() + x_BTE.detach().mean((0, 1))
    optimizer = torch.optim.SGD([module.router.weight], lr=0.5)
    first = balance_loss(module(x_BTE, layout)[1])
    for _ in range(50):
        balance_loss(module(x_BTE, layout)[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    last = module(x_BTE, layout)[1]
    assert balance_loss(last) < first
    assert balance_loss(last) < 2.2


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("options", VARIANTS)
def test_a_cached_step_is_the_whole_text(options: ExpertOptions, rows: int) -> None:
    """Token by token, on matrices laid out for it; capacity holds in training alone. One row has a way of its own."""
    model = Transformer(dataclasses.replace(CONFIG, experts=dataclasses.replace(options, capacity_factor=0.5)))
    tokens_BT = torch.randint(0, 50, (rows, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole_BTV = model(tokens_BT)
        lay_by_columns(model)
        assert all(expert.up.weight.t().is_contiguous() for expert in model.layers[1].feedforward.experts)
        cache = Full().start(model.config, model.position, rows)
        steps = [model(tokens_BT[:, t : t + 1], cache=cache) for t in range(9)]
    torch.testing.assert_close(torch.cat(steps, 1), whole_BTV, atol=1e-5, rtol=0)


def test_a_step_touches_only_chosen_experts() -> None:
    module, x_BTE, _ = made(ExpertOptions(5, 16))
    called: list[int] = []
    for number, expert in enumerate(module.experts):
        expert.register_forward_hook(lambda *_, number=number: called.append(number))
    with torch.no_grad():
        _, routed = module(x_BTE[:1, :1], Layout.rows([1], [6]))
    assert called == [number for number, asked in enumerate(routed.asked) if asked]
    assert len(called) == 2


def test_the_router_is_exact_in_16_bits() -> None:
    module, x_BTE, layout = made(ExpertOptions(5, 16))
    half = module.to(torch.bfloat16)
    out_BTE, routed = half(x_BTE.bfloat16(), layout)
    assert out_BTE.dtype == torch.bfloat16
    assert routed.logits_MN.dtype == torch.float32
    exact = x_BTE.bfloat16().float().flatten(0, 1) @ half.router.weight.float().T
    torch.testing.assert_close(routed.logits_MN, exact, atol=1e-6, rtol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        _, autocast = module.float()(x_BTE, layout)
    assert autocast.logits_MN.dtype == torch.float32


def test_recomputation_tells_the_same_once() -> None:
    model = Transformer(CONFIG)
    tokens_BT = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    plain = model.hidden(tokens_BT)
    model.activation_checkpointing = True
    again = model.hidden(tokens_BT)
    names = ["layers.0.feedforward", "layers.1.feedforward"]
    assert [told.name for told in plain.aux] == [told.name for told in again.aux] == names
    gradients = []
    for hidden in (plain, again):
        total = sum(balance_loss(told.aux) + z_loss_sum(told.aux) for told in hidden.aux)
        gradients.append(torch.autograd.grad(total + hidden.last_BTE.square().sum(), list(model.parameters())[:-1]))
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("changes", [{}, {"feedforward_bias": True}, {"feedforward": "relu"}])
@pytest.mark.parametrize("options", [*VARIANTS, ExpertOptions(6, 16, dense_layers=(1,))])
def test_parameters_by_formula(options: ExpertOptions, changes: dict[str, Any]) -> None:
    model = Transformer(dataclasses.replace(CONFIG, experts=options, **changes))
    assert parameter_count(model.config) == sum(parameter.numel() for parameter in model.parameters())
    assert matrix_count(model.config) == sum(each.numel() for each in model.layers.parameters() if each.dim() == 2)
    idle = [
        parameter.numel()
        for layer in model.layers
        if isinstance(layer.feedforward, Experts)
        for expert in layer.feedforward.experts[options.top_k :]
        for parameter in expert.parameters()
    ]
    assert parameter_count(model.config, active=True) == parameter_count(model.config) - sum(idle)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0, "width": 8}, r"experts\.count=0: at least 1"),
        ({"count": 2, "width": 8, "top_k": 3}, r"experts\.top_k=3: a token takes 1 to 2 of 2 experts"),
        ({"count": 2, "width": 8, "shared_gate": True}, "needs a shared expert: give shared_width"),
        ({"count": 2, "width": 8, "capacity_factor": 0.0}, r"experts\.capacity_factor=0\.0: above 0"),
        ({"count": 2, "width": 8, "balance_loss": -1.0}, r"experts\.balance_loss=-1\.0: a weight, 0 or more"),
        ({"count": 2, "width": 8, "dense_layers": (2,)}, r"dense_layers=\(2,\): each once, and the layers are 0 to 1"),
        ({"count": 2, "width": 8, "dense_layers": (0, 1)}, r"are all layers: leave experts out"),
    ],
)
def test_wrong_options(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, experts=ExpertOptions(**wrong))


OPTIONS = ExpertOptions(4, 16, top_k=3, capacity_factor=1.5, balance_loss=0.02, router_z_loss=0.003)
FOLDERS = [
    ("mixtral", {"feedforward_width": 16, "experts": dataclasses.replace(OPTIONS, renormalize=True)}),
    ("qwen3_moe", {"qk_norm": True, "experts": dataclasses.replace(OPTIONS, renormalize=False, dense_layers=(0,))}),
    ("qwen2_moe", {"experts": dataclasses.replace(OPTIONS, shared_width=20, shared_gate=True)}),
    ("handscroll", {"experts": dataclasses.replace(OPTIONS, shared_width=20)}),
]


@pytest.mark.parametrize(("family", "changes"), FOLDERS)
def test_a_new_model_is_saved_as_a_family_that_can_say_it(
    family: str, changes: dict[str, Any], tmp_path: Any, load_theirs: Any
) -> None:
    """Every option comes back, and what transformers reads computes the same."""
    model = Transformer(dataclasses.replace(CONFIG, **changes), seed=3)
    save_model(model, tmp_path / "out")
    again = load_model(tmp_path / "out")
    assert again.source.config["model_type"] == family
    assert again.config == model.config
    tokens_BT = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(again(tokens_BT), model(tokens_BT), atol=1e-6, rtol=0)
        if family != "handscroll":
            theirs = load_theirs(tmp_path / "out")(tokens_BT).logits
            torch.testing.assert_close(model(tokens_BT), theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "qwen2-moe"])
def test_files_of_all_experts_in_one_tensor(name: str, pair_of: Any, tmp_path: Any, load_theirs: Any) -> None:
    pair = pair_of(name)
    pair.theirs.save_pretrained(tmp_path / "fused", save_original_format=False)
    fused = load_model(tmp_path / "fused")
    for (key, ours), (other, theirs) in zip(fused.state_dict().items(), pair.ours.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(ours, theirs)
    save_model(fused, tmp_path / "out")
    again = load_model(tmp_path / "out").state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in fused.state_dict().items())
