"""Linear maps whose matrices lie input by input, for a model that generates on a CPU: there a token's time is theirs.

One vector's product is the sum of the matrix's rows, as they lie, weighted by the vector: PyTorch's `embedding_bag`,
which FBGEMM compiles for the width of a row and which fetches ahead. It reads at about the memory's speed, where BLAS
reads at half of it by outputs and at two thirds by inputs (`docs/benchmarks.md`). Several threads take a share of the
outputs each. Whatever else comes, more tokens or another dtype, is multiplied as ever.

Letters: I inputs, O outputs, P parts of the outputs.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

# Numbers of a matrix below which threads would wait for each other longer than they read.
SHARED = 1 << 18
HAS_FBGEMM = "fbgemm" in torch.backends.quantized.supported_engines


class LinearByColumns(nn.Linear):
    """Takes over the parameters of a linear map (mutates where its matrix lies); no number changes."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.weight.data = self.weight.data.t().contiguous().t()

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() != self.in_features or torch.is_grad_enabled() or not HAS_FBGEMM:
            return super().forward(x)
        weight_IO, bias = self.weight.t(), self.bias
        is_float32 = x.dtype == weight_IO.dtype == torch.float32
        if not (is_float32 and weight_IO.device.type == "cpu" and weight_IO.is_contiguous()):
            return super().forward(x)
        threads = torch.get_num_threads()
        parts = threads if weight_IO.numel() >= SHARED and self.out_features % threads == 0 else 1
        rows, firsts_P = _rows(self.in_features, parts)
        table = weight_IO.view(self.in_features * parts, -1)
        shares = x.reshape(1, -1).expand(parts, -1).reshape(-1)
        sums_PO = torch.embedding_bag(table, rows, firsts_P, per_sample_weights=shares)[0]
        out = sums_PO.view(*x.shape[:-1], self.out_features)
        return out if bias is None else out + bias


@cache
def _rows(inputs: int, parts: int) -> tuple[Tensor, Tensor]:
    """Where the outputs are cut into parts: the rows that each part sums up, part by part, and each part's first."""
    rows = torch.arange(inputs * parts, dtype=torch.int32, device="cpu").view(inputs, parts).t().flatten()
    return rows, torch.arange(0, inputs * parts, inputs, dtype=torch.int32, device="cpu")
