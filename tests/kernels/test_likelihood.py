"""The chunked cross-entropy against PyTorch's dense one, gradients included, and its promise to hold one chunk only."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from handscroll.kernels.likelihood import IGNORE, cross_entropy_sum, cross_entropy_sum_dense


def inputs(tokens: int = 150, vocabulary: int = 61, width: int = 16, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    hidden_NE = torch.randn(tokens, width, generator=generator) * scale
    weight_VE = torch.randn(vocabulary, width, generator=generator)
    targets_N = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return hidden_NE.requires_grad_(), weight_VE.requires_grad_(), targets_N


def gradients(loss: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("chunk", [1, 7, 64, 150, 4096])
@pytest.mark.parametrize("ignored", [0, 1, 100])
def test_equals_dense(chunk: int, ignored: int) -> None:
    hidden_NE, weight_VE, targets_N = inputs()
    targets_N[torch.randperm(len(targets_N))[:ignored]] = IGNORE
    fast = cross_entropy_sum(hidden_NE, weight_VE, targets_N, chunk=chunk)
    slow = cross_entropy_sum_dense(hidden_NE, weight_VE, targets_N)
    assert fast.count == slow.count == 150 - ignored
    torch.testing.assert_close(fast.sum, slow.sum, rtol=1e-6, atol=0)
    # A factor stands for the division and the weights of several terms that the trainer applies.
    expected = gradients(0.3 * slow.sum, hidden_NE, weight_VE)
    torch.testing.assert_close(gradients(0.3 * fast.sum, hidden_NE, weight_VE), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"label_smoothing": 0.1}, {"z_loss": 1e-2}, {"label_smoothing": 0.3, "z_loss": 0.2}]
)
def test_smoothing_and_z_loss_equal_dense(options: dict[str, float]) -> None:
    """The dense path is PyTorch's own label smoothing, and a z-loss that autograd differentiates."""
    hidden_NE, weight_VE, targets_N = inputs()
    targets_N[::7] = IGNORE
    fast = cross_entropy_sum(hidden_NE, weight_VE, targets_N, chunk=64, **options)
    slow = cross_entropy_sum_dense(hidden_NE, weight_VE, targets_N, **options)
    plain = cross_entropy_sum_dense(hidden_NE, weight_VE, targets_N)
    torch.testing.assert_close((fast.sum, fast.nll), (slow.sum, plain.sum), rtol=1e-6, atol=0)
    assert abs(slow.sum / plain.sum - 1) > 0.001
    assert not fast.nll.requires_grad
    expected = gradients(0.3 * slow.sum, hidden_NE, weight_VE)
    torch.testing.assert_close(gradients(0.3 * fast.sum, hidden_NE, weight_VE), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-2}], ids=str)
def test_bias_equals_dense(options: dict[str, float]) -> None:
    """Also where only the bias is trained, and in half precision, whose sum of many tokens is taken in float32."""
    hidden_NE, weight_VE, targets_N = inputs()
    bias_V = torch.randn(61, generator=torch.Generator().manual_seed(4)).requires_grad_()
    targets_N[::7] = IGNORE
    fast = cross_entropy_sum(hidden_NE, weight_VE, targets_N, bias_V=bias_V, chunk=64, **options)
    slow = cross_entropy_sum_dense(hidden_NE, weight_VE, targets_N, bias_V=bias_V, **options)
    torch.testing.assert_close((fast.sum, fast.nll), (slow.sum, slow.nll), rtol=1e-6, atol=0)
    expected = gradients(0.3 * slow.sum, hidden_NE, weight_VE, bias_V)
    torch.testing.assert_close(gradients(0.3 * fast.sum, hidden_NE, weight_VE, bias_V), expected, rtol=1e-5, atol=1e-6)
    frozen = cross_entropy_sum(hidden_NE.detach(), weight_VE.detach(), targets_N, bias_V=bias_V, **options)
    torch.testing.assert_close(gradients(0.3 * frozen.sum, bias_V)[0], expected[2], rtol=1e-5, atol=1e-6)
    low = [each.detach().bfloat16().requires_grad_() for each in (hidden_NE, weight_VE, bias_V)]
    found = gradients(0.3 * cross_entropy_sum(*low[:2], targets_N, bias_V=low[2], chunk=8, **options).sum, low[2])[0]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected[2], rtol=0.02, atol=0.05)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2, "z_loss": 0.1}], ids=str)
def test_closed_form_gradients_equal_finite_differences(options: dict[str, float]) -> None:
    hidden_NE, weight_VE, targets_N = inputs(tokens=5, vocabulary=7, width=3)
    targets_N[1] = IGNORE
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden_NE, weight_VE)]
    assert torch.autograd.gradcheck(lambda h, w: cross_entropy_sum(h, w, targets_N, chunk=2, **options).sum, exact)


def test_gradient_of_the_logits_is_softmax_minus_one_hot() -> None:
    """With the identity for a head hidden states are logits."""
    logits_NV, _, targets_N = inputs(tokens=9, width=16)
    targets_N %= 16
    loss = cross_entropy_sum(logits_NV, torch.eye(16), targets_N).sum
    expected = logits_NV.softmax(-1) - F.one_hot(targets_N, 16)
    torch.testing.assert_close(gradients(loss, logits_NV)[0], expected, rtol=1e-5, atol=1e-6)


def test_all_ignored_is_zero_with_zero_gradients() -> None:
    hidden_NE, weight_VE, targets_N = inputs()
    loss = cross_entropy_sum(hidden_NE, weight_VE, torch.full_like(targets_N, IGNORE))
    assert loss.count == 0
    assert loss.sum.item() == 0
    assert all(not gradient.any() for gradient in gradients(loss.sum, hidden_NE, weight_VE))


def test_tied_embedding_collects_both_gradients() -> None:
    _, embedding_VE, targets_N = inputs()
    tokens_N = targets_N.roll(1)
    results = []
    for likelihood in (cross_entropy_sum, cross_entropy_sum_dense):
        loss = likelihood(F.embedding(tokens_N, embedding_VE).tanh(), embedding_VE, targets_N).sum
        results.append((loss, *gradients(loss, embedding_VE)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_huge_logits_stay_exact() -> None:
    hidden_NE, weight_VE, targets_N = inputs(scale=1e4)
    fast = cross_entropy_sum(hidden_NE, weight_VE, targets_N)
    slow = cross_entropy_sum_dense(hidden_NE, weight_VE, targets_N)
    assert math.isfinite(fast.sum.item())
    torch.testing.assert_close(fast.sum, slow.sum, rtol=1e-6, atol=0)


def test_low_precision_is_as_near_as_the_dense_path() -> None:
    hidden_NE, weight_VE, targets_N = inputs(tokens=600)
    exact = gradients(cross_entropy_sum_dense(hidden_NE, weight_VE, targets_N).sum, hidden_NE, weight_VE)
    low = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden_NE, weight_VE)]
    errors = []
    for loss in (cross_entropy_sum(*low, targets_N, chunk=16).sum, cross_entropy_sum_dense(*low, targets_N).sum):
        found = gradients(loss, *low)
        assert all(tensor.dtype == torch.bfloat16 for tensor in found)
        errors.append(max((f.float() - e).abs().max().item() for f, e in zip(found, exact, strict=True)))
    assert errors[0] <= 1.5 * errors[1]


def test_without_gradients_only_the_loss_is_computed() -> None:
    hidden_NE, weight_VE, targets_N = inputs()
    expected = cross_entropy_sum(hidden_NE, weight_VE, targets_N).sum.item()
    with torch.no_grad():
        loss = cross_entropy_sum(hidden_NE, weight_VE, targets_N).sum
    assert not loss.requires_grad
    assert loss.item() == expected
    frozen = cross_entropy_sum(hidden_NE, weight_VE.detach(), targets_N).sum
    torch.testing.assert_close(gradients(frozen, hidden_NE)[0].shape, hidden_NE.shape)


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest tensor had that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_logits_of_all_tokens_never_exist() -> None:
    hidden_NE, weight_VE, targets_N = inputs(tokens=512)
    with LargestTensor() as mode:
        cross_entropy_sum(hidden_NE, weight_VE, targets_N, chunk=128).sum.backward()
    assert mode.largest == max(128 * 61, hidden_NE.numel())


def test_chunk_must_hold_a_token() -> None:
    with pytest.raises(ValueError, match="chunk=0"):
        cross_entropy_sum(*inputs(), chunk=0)
