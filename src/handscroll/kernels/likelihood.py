"""Cross-entropy of a vocabulary without holding its logits: the chunked path, and the dense one it is held against.

A batch of N tokens over a vocabulary of V needs N x V logits, by far the largest tensor of a small model's step. Here
only `chunk` rows of it exist at a time: each chunk's loss and its closed-form gradient, softmax minus one-hot, are
taken together in the forward pass, so that the backward pass only scales what is already there (as Liger Kernel does,
arXiv 2410.10989, section 3.2). Unsupervised rows are dropped before any of it: a chat's prompt costs nothing here.

Two terms may be added, and their gradients are closed forms of the same probabilities p:

- label smoothing e (arXiv 1512.00567, section 7): the target is 1 - e of the one-hot and e of the uniform distribution,
  so that the gradient is p - (1 - e) onehot - e / V;
- z-loss z (PaLM, arXiv 2204.02311, section 5; ST-MoE, arXiv 2202.08906): z log^2 Z, where log Z is the logarithm of the
  softmax's sum, keeps logits from drifting together; its gradient is 2 z log Z p.

Knows nothing of batches or models: hidden states, a weight, perhaps a bias, and targets come in, a sum and a count go
out. Who divides by what is the trainer's business.

Letters: N tokens of all rows together, E model width, V vocabulary, C tokens of one chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
# Measured at E = 128, V = 2048 and 4096, N = 4096 and 16384 on two threads: 1.6 to 3 times as fast as the dense path;
# 512 tokens were fastest or within noise of it; 2048 lose a tenth because a chunk's logits leave the cache.
CHUNK = 512


class Likelihood(NamedTuple):
    """Negative log-likelihood in nats, summed, and the number of tokens that it is summed over.

    `sum` is a scalar with its graph, in float32 (float64 of float64 inputs), and holds smoothing and z-loss, too; `nll`
    is without either, and without a graph. `correct`: of how many tokens no logit is higher than the target's.
    """

    sum: Tensor
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody asks of two numbers
    nll: Tensor
    correct: Tensor


def cross_entropy_sum(
    hidden_NE: Tensor,
    weight_VE: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    chunk: int = CHUNK,
    ignore: int = IGNORE,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Likelihood:
    """Sum of -log softmax(hidden @ weight^T + bias)[target] over the tokens whose target is not `ignore`.

    Gradients reach `hidden_NE`, `weight_VE` and `bias_V`. Products run in the inputs' dtype, softmax and sums in
    float32 or, of float64, in that. With every target ignored the sum is 0, with zero gradients.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: the loss needs at least 1 token at a time; 512 is a good size")
    supervised_N = targets_N != ignore
    count = int(supervised_N.sum())
    if count < targets_N.numel():
        kept = supervised_N.nonzero()[:, 0]
        hidden_NE, targets_N = hidden_NE.index_select(0, kept), targets_N.index_select(0, kept)
    differentiable = any(each is not None and each.requires_grad for each in (hidden_NE, weight_VE, bias_V))
    differentiate = torch.is_grad_enabled() and differentiable
    extra = Extra(label_smoothing, z_loss)
    given = (hidden_NE, weight_VE, bias_V, targets_N, chunk, extra, differentiate)
    total, nll, correct = _ChunkedCrossEntropy.apply(*given)  # type: ignore[no-untyped-call]
    return Likelihood(total, count, nll, correct)


def cross_entropy_sum_dense(
    hidden_NE: Tensor,
    weight_VE: Tensor,
    targets_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    ignore: int = IGNORE,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Likelihood:
    """The slow reference of `cross_entropy_sum`: all logits at once, PyTorch's own loss."""
    logits_NV = F.linear(hidden_NE, weight_VE, bias_V)
    logits_NV = logits_NV.to(_exact(logits_NV))
    total = F.cross_entropy(logits_NV, targets_N, ignore_index=ignore, reduction="sum", label_smoothing=label_smoothing)
    total = total + z_loss * logits_NV[targets_N != ignore].logsumexp(-1).square().sum()
    nll = F.cross_entropy(logits_NV.detach(), targets_N, ignore_index=ignore, reduction="sum")
    correct = ((logits_NV.argmax(-1) == targets_N) & (targets_N != ignore)).sum()
    return Likelihood(total, int((targets_N != ignore).sum()), nll, correct)


class Extra(NamedTuple):
    """What the loss has besides the likelihood."""

    smoothing: float
    z: float


def _exact(x: Tensor) -> torch.dtype:
    """What softmax and sums are computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss and gradient of one chunk of logits after the other."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NE: Tensor,
        weight_VE: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        chunk: int,
        extra: Extra,
        differentiate: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact, (smoothing, z) = _exact(hidden_NE), extra
        total, nll = torch.zeros(2, dtype=exact, device=hidden_NE.device).unbind()
        correct = torch.zeros((), dtype=torch.int64, device=hidden_NE.device)
        # A low-precision model's chunks are summed in float32: many bfloat16 additions would lose the small ones.
        grad_weight_VE = torch.zeros_like(weight_VE, dtype=exact) if differentiate else None
        grad_hidden_NE = torch.empty_like(hidden_NE) if differentiate else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=exact) if differentiate and bias_V is not None else None
        for start in range(0, len(targets_N), chunk):
            rows = slice(start, start + chunk)
            hidden_CE, targets_C1 = hidden_NE[rows], targets_N[rows, None]
            logits_CV = F.linear(hidden_CE, weight_VE, bias_V).to(exact)
            highest_C, target_C1 = logits_CV.amax(-1), logits_CV.gather(1, targets_C1)
            probs_CV = logits_CV.softmax(-1)
            # log Z = highest logit - log of its probability, which is never small: one pass of exponentials.
            log_z_C = highest_C - probs_CV.amax(-1).log()
            nll_C = log_z_C - target_C1[:, 0]
            nll += nll_C.sum()
            correct += (target_C1[:, 0] == highest_C).sum()
            if smoothing:
                nll_C = torch.lerp(nll_C, log_z_C - logits_CV.mean(-1), smoothing)
            total += nll_C.sum() if not z else (nll_C + z * log_z_C.square()).sum()
            if grad_weight_VE is not None and grad_hidden_NE is not None:
                grad_CV = probs_CV.mul_(1 + 2 * z * log_z_C[:, None]) if z else probs_CV
                if smoothing:
                    grad_CV -= smoothing / grad_CV.shape[1]
                grad_CV.scatter_add_(1, targets_C1, grad_CV.new_full(targets_C1.shape, smoothing - 1.0))
                if grad_bias_V is not None:
                    grad_bias_V += grad_CV.sum(0)
                grad_CV = grad_CV.to(hidden_NE.dtype)
                torch.mm(grad_CV, weight_VE, out=grad_hidden_NE[rows])
                if grad_weight_VE.dtype == grad_CV.dtype:
                    grad_weight_VE.addmm_(grad_CV.T, hidden_CE)
                else:
                    grad_weight_VE += grad_CV.T @ hidden_CE
        if grad_weight_VE is not None:
            grad_bias_V = None if grad_bias_V is None or bias_V is None else grad_bias_V.to(bias_V.dtype)
            ctx.save_for_backward(grad_hidden_NE, grad_weight_VE.to(weight_VE.dtype), grad_bias_V)
        ctx.mark_non_differentiable(nll, correct)
        return total, nll, correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NE, weight_VE, bias_V = (None if each is None else each * grads[0] for each in ctx.saved_tensors)
        return hidden_NE, weight_VE, bias_V, None, None, None, None
