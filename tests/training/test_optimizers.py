"""Optimizers against PyTorch's AdamW and Muon, Newton-Schulz against the SVD, and their state saved and restored."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from handscroll.model import Transformer
from handscroll.training import OPTIMIZERS, AdamWOptions, MuonOptions
from handscroll.training.muon import Muon, orthogonalize
from handscroll.training.optimizers import Optimizers, parameter_groups

MakeModel = Callable[..., Transformer]
FULL = {"qkv_bias": True, "output_bias": True, "feedforward_bias": True}


def random_gradients(model: Transformer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def assert_equal_weights(one: Transformer, other: Transformer, **tolerance: float) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("tied", [True, False])
def test_groups(make_model: MakeModel, tied: bool) -> None:
    groups = parameter_groups({"model": make_model(tied_embeddings=tied, **FULL)})
    maps = [f"attention.{part}" for part in "qkvo"] + [f"feedforward.{part}" for part in ("gate", "up", "down")]
    assert sorted(groups.matrices) == sorted(f"model.layers.{n}.{name}.weight" for n in range(2) for name in maps)
    biases = [f"{name}.bias" for name in maps]
    norms = ["attention_norm.weight", "feedforward_norm.weight"]
    others = [f"model.layers.{n}.{name}" for n in range(2) for name in (*biases, *norms)]
    outer = ["model.embedding.weight", "model.norm.weight"] + ([] if tied else ["model.head.weight"])
    assert sorted(groups.others) == sorted(others + outer)


def test_frozen_parameters_are_no_ones(make_model: MakeModel) -> None:
    model = make_model()
    model.embedding.requires_grad_(False)
    groups = parameter_groups({"model": model, "reference": make_model().requires_grad_(False)})
    assert all(name.startswith("model.") for name in (*groups.matrices, *groups.others))
    assert "model.embedding.weight" not in groups.others
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups({"model": model.requires_grad_(False)})


def test_adamw_equals_pytorch(make_model: MakeModel) -> None:
    ours, theirs = make_model(**FULL), make_model(**FULL)
    optimizers = Optimizers({"model": ours}, AdamWOptions(3e-3, 0.8, 0.99, 1e-6, 0.3))
    decayed = [p for name, p in theirs.named_parameters() if name.startswith("layers") and p.ndim == 2]
    others = [p for name, p in theirs.named_parameters() if not (name.startswith("layers") and p.ndim == 2)]
    reference = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}],
        lr=3e-3, betas=(0.8, 0.99), eps=1e-6, foreach=False,
    )  # fmt: skip
    for step, multiplier in enumerate((0.5, 1.0, 0.25)):
        random_gradients(ours, step)
        random_gradients(theirs, step)
        for group in reference.param_groups:
            group["lr"] = 3e-3 * multiplier
        reference.step()
        assert optimizers.step(multiplier) == 3e-3 * multiplier
    assert_equal_weights(ours, theirs, rtol=1e-5, atol=1e-7)
    assert all(parameter.grad is None for parameter in ours.parameters())


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_equals_pytorch_up_to_its_bfloat16(nesterov: bool) -> None:
    # All sides, several of one shape: what is batched here is taken one by one there.
    shapes = [(24, 16), (16, 16), (16, 24), (24, 16), (16, 16), (8, 40)]
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) * 0.1 for shape in shapes]
    mine, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    options = {"lr": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.2}
    ours, reference = Muon(mine, **options), torch.optim.Muon(theirs, **options)
    for _ in range(4):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        ours.step()
        reference.step()
    for start, one, other in zip(starts, mine, theirs, strict=True):
        moved = (other - start).norm()
        # Five bfloat16 iterations keep two digits or so of the update.
        assert (one - other).norm() < 0.03 * moved
        torch.testing.assert_close(ours.state[one]["momentum_buffer"], reference.state[other]["momentum_buffer"])


def polar(matrix: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 32, 12), (2, 12, 32)])
def test_orthogonalize_is_near_the_polar_factor(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    matrices = polar(torch.randn(shape, generator=generator)) @ torch.diag_embed(
        torch.logspace(-1, 0.5, shape[-1]).expand(shape[0], -1)
    )
    result = orthogonalize(matrices)
    values = torch.linalg.svdvals(result)
    # Jordan's coefficients end between 0.7 and 1.2 and not at one; directions are those of the SVD.
    assert values.min() > 0.65
    assert values.max() < 1.25
    torch.testing.assert_close(polar(result), polar(matrices), rtol=0, atol=2e-4)


def test_orthogonalize_zero_is_zero() -> None:
    assert not orthogonalize(torch.zeros(2, 4, 6)).any()


def test_muon_takes_matrices_only() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\): Muon takes matrices, AdamW the rest"):
        Muon([nn.Parameter(torch.zeros(3))])


def test_muon_leaves_the_rest_to_adamw(make_model: MakeModel) -> None:
    model = make_model(**FULL)
    optimizers = Optimizers({"model": model}, MuonOptions(learning_rate=0.5, rest=AdamWOptions(0.25)))
    random_gradients(model, 0)
    assert optimizers.step(0.1) == 0.5 * 0.1
    groups = parameter_groups({"model": model})
    keys = {name.rpartition(".")[::2] for name in optimizers.state()}
    assert {name for name, key in keys if key == "momentum_buffer"} == set(groups.matrices)
    assert {name for name, key in keys if key == "exp_avg"} == set(groups.others)
    assert [group["lr"] for o in optimizers.optimizers for group in o.param_groups] == [0.5 * 0.1, 0.25 * 0.1]


@pytest.mark.parametrize("options", [kind(learning_rate=0.01) for kind in OPTIMIZERS.values()], ids=OPTIMIZERS)
def test_restored_state_takes_the_same_steps(options: AdamWOptions | MuonOptions, make_model: MakeModel) -> None:
    model, other = make_model(**FULL), make_model(seed=2, **FULL)
    optimizers, restored = Optimizers({"model": model}, options), Optimizers({"model": other}, options)
    random_gradients(model, 0)
    optimizers.step(1.0)
    other.load_state_dict(model.state_dict())
    restored.load({name: tensor.clone() for name, tensor in optimizers.state().items()})
    for step in (1, 2):
        for each, its_optimizers in ((model, optimizers), (other, restored)):
            random_gradients(each, step)
            its_optimizers.step(0.5)
    assert_equal_weights(model, other, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"optimizer state of model\.nowhere, which this run does not train"):
        restored.load({"model.nowhere.exp_avg": torch.zeros(1)})
