"""Products with matrices that lie input by input, for a model that generates on a CPU: there a token's time is theirs.

One vector's product is the sum of the matrix's rows, as they lie, weighted by the vector: PyTorch's `embedding_bag`,
which FBGEMM compiles for the width of a row and which fetches ahead. It reads at about the memory's speed, where BLAS
reads at half of it by outputs and at two thirds by inputs (`docs/benchmarks.md`). Several threads take a share of the
outputs each. Whatever else comes, more tokens, another dtype or a small matrix, is multiplied as ever.

Letters: I inputs, O outputs, P parts of the outputs.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Numbers of a matrix from which on it isn't all in the processor's cache, and from which on threads share it.
LARGE, SHARED = 1 << 16, 1 << 18
HAS_FBGEMM = "fbgemm" in torch.backends.quantized.supported_engines


class LinearByColumns(nn.Linear):
    """Takes over the parameters of a linear map (mutates where its matrix lies); no number changes.

    What goes by a module's exact type, as PyTorch's `quantize_dynamic` does, no longer takes it for a linear map.
    """

    def __init__(self, of: nn.Linear):
        super().__init__(of.in_features, of.out_features, bias=of.bias is not None, device="meta")
        self.weight, self.bias = of.weight, of.bias
        lay(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def lay(weight_OI: Tensor) -> None:
    """Lays a matrix out input by input (mutates)."""
    weight_OI.data = weight_OI.data.t().contiguous().t()


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x (..., I) times the matrix: (..., O), as `torch.nn.functional.linear` gives it but for the order of sums."""
    outputs, inputs = weight_OI.shape
    if x.numel() != inputs or outputs * inputs < LARGE or torch.is_grad_enabled() or not HAS_FBGEMM:
        return F.linear(x, weight_OI, bias_O)
    weight_IO = weight_OI.t()
    is_float32_on_cpu = x.dtype == weight_IO.dtype == torch.float32 and weight_IO.device.type == "cpu"
    if not (is_float32_on_cpu and weight_IO.is_contiguous()):
        return F.linear(x, weight_OI, bias_O)
    threads = torch.get_num_threads()
    parts = threads if outputs * inputs >= SHARED and outputs % threads == 0 else 1
    rows, firsts_P = _rows(inputs, parts)
    shares = x.reshape(1, -1).expand(parts, -1).reshape(-1)
    sums = torch.embedding_bag(weight_IO.view(inputs * parts, -1), rows, firsts_P, per_sample_weights=shares)[0]
    out = sums.view(*x.shape[:-1], outputs)
    return out if bias_O is None else out + bias_O


@cache
def _rows(inputs: int, parts: int) -> tuple[Tensor, Tensor]:
    """Where the outputs are cut into parts: the rows that each part sums up, part by part, and each part's first."""
    rows = torch.arange(inputs * parts, dtype=torch.int32, device="cpu").view(inputs, parts).t().flatten()
    return rows, torch.arange(0, inputs * parts, inputs, dtype=torch.int32, device="cpu")
