"""Muon: momentum, orthogonalised (https://kellerjordan.github.io/posts/muon/; at scale arXiv 2502.16982).

A hidden matrix's update is replaced by the nearest matrix whose singular values are all about one, so that rare
directions learn as fast as common ones. Rule and coefficients are those of `torch.optim.Muon`. Two things differ: the
iteration runs in float32 on a CPU, since bfloat16 products are 5 to 200 times slower on CPUs without hardware for them,
and matrices of equal shape are orthogonalised together, in one batched product.

Knows matrices only; which parameters are matrices is decided in `optimizers.py`.

Letters: N matrices of one shape, M rows, K columns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Chosen by Jordan to have the largest slope at zero: small singular values grow fast, all end up between 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
EPS = 1e-7


def orthogonalize(matrices_NMK: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Newton-Schulz: U S V^T -> U S' V^T with S' near one, by S <- a S + b S^3 + c S^5. Shape and dtype are kept."""
    a, b, c = COEFFICIENTS
    wide = matrices_NMK.shape[-2] <= matrices_NMK.shape[-1]
    # The Gram matrix is taken on the shorter side.
    x_NMK = matrices_NMK if wide else matrices_NMK.transpose(-1, -2)
    # Frobenius norm bounds spectral norm; the iteration converges from singular values in [0, 1].
    x_NMK = x_NMK / x_NMK.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(iterations):
        gram_NMM = x_NMK @ x_NMK.transpose(-1, -2)
        polynomial_NMM = torch.baddbmm(gram_NMM, gram_NMM, gram_NMM, beta=b, alpha=c)
        x_NMK = torch.baddbmm(x_NMK, polynomial_NMM, x_NMK, beta=a)
    return x_NMK if wide else x_NMK.transpose(-1, -2)


class Muon(torch.optim.Optimizer):
    """Muon for 2-D parameters. The step of an M x K matrix is lr * sqrt(max(1, M / K)) long ("original" adjustment)."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(
                        f"a parameter of shape {tuple(parameter.shape)}: Muon takes matrices, AdamW the rest"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves every parameter that has a gradient (mutates parameters and momentum). No closure is called."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step(parameters, group)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._momentum(parameter) for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, buffers, momentum) if group["nesterov"] else buffers
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        for members in _by_shape(parameters):
            # A CPU keeps float32; a GPU has hardware for bfloat16, whose noise the iteration tolerates.
            working = torch.float32 if parameters[members[0]].device.type == "cpu" else torch.bfloat16
            stacked_NMK = torch.stack([_wide(updates[member]) for member in members]).to(working)
            for member, update in zip(members, orthogonalize(stacked_NMK), strict=True):
                rows, columns = parameters[member].shape
                direction = update.T if rows > columns else update
                parameters[member].add_(direction, alpha=-lr * math.sqrt(max(1, rows / columns)))

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _wide(matrix_MK: Tensor) -> Tensor:
    return matrix_MK.T if matrix_MK.shape[0] > matrix_MK.shape[1] else matrix_MK


def _by_shape(parameters: list[Tensor]) -> list[list[int]]:
    """Indices of parameters that can share one batched product: equal devices and sides, transposes included."""
    groups: dict[tuple[torch.device, int, int], list[int]] = defaultdict(list)
    for index, parameter in enumerate(parameters):
        short, long = sorted(parameter.shape)
        groups[parameter.device, short, long].append(index)
    return list(groups.values())
