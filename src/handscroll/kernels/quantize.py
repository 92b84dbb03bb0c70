"""Asymmetric quantization to int8 and int4, as pure functions of tensors (KIVI, arXiv 2402.02750, equation 1).

A group of numbers along one dimension shares a scale and a zero: x is about code * scale + zero. Codes are computed
against the zero and the scale as they are stored, in half precision, so that rounding these adds no error of its own.

Knows nothing of keys or values: which dimension is a group is the caller's decision.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BITS = (8, 4)


class Codes(NamedTuple):
    """`code` uint8, for 4 bits two to a byte along the last dimension; `scale` and `zero` float16, one per group."""

    code: Tensor
    scale: Tensor
    zero: Tensor


def quantize(x: Tensor, bits: int, dim: int) -> Codes:
    """Groups are all of dimension `dim`. ValueError for bits other than 8 or 4; 4 bits need an even last dimension.

    The error of a number is at most half a step, (max - min) / (2^bits - 1) of its group, to within half precision.
    """
    if bits not in BITS:
        raise ValueError(f"bits={bits}: numbers are kept in 8 or 4 bits")
    levels = 2**bits - 1
    low, high = (edge.float() for edge in torch.aminmax(x, dim=dim, keepdim=True))
    zero = _half(low, float("-inf"))
    # A group of equal numbers has a step of 0: all of its codes are 0, whatever they are divided by.
    scale = _half((high - zero.float()) / levels, float("inf"))
    step = scale.float().clamp(min=torch.finfo(torch.float16).tiny)
    code = ((x.float() - zero.float()) / step).round_().clamp_(0, levels).to(torch.uint8)
    return Codes(_pack(code) if bits == 4 else code, scale, zero)


def dequantize(codes: Codes, bits: int, dtype: torch.dtype) -> Tensor:
    code, scale, zero = codes
    if bits == 4:
        code = torch.stack((code & 15, code >> 4), dim=-1).flatten(-2)
    return code.to(torch.float32).mul_(scale.float()).add_(zero.float()).to(dtype)


def _pack(code: Tensor) -> Tensor:
    if code.shape[-1] % 2:
        raise ValueError(f"the last dimension is {code.shape[-1]}: 4 bits are packed in pairs, so it must be even")
    low, high = code[..., 0::2], code[..., 1::2]
    return low | high << 4


def _half(x: Tensor, towards: float) -> Tensor:
    """The nearest float16 that lies in this direction, so that a group's range covers all of its numbers."""
    half = x.to(torch.float16)
    beyond = half.float() > x if towards < 0 else half.float() < x
    return torch.where(beyond, torch.nextafter(half, torch.full_like(half, towards)), half)
