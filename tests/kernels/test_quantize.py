"""Quantization: the error is at most half a step, bytes are as few as promised, and PyTorch rounds the same way."""

import pytest
import torch

from handscroll.kernels.quantize import dequantize, quantize


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dim", [-1, -2])
@pytest.mark.parametrize("offset", [0.0, 100.0, -3000.0])
def test_error_is_at_most_half_a_step(bits: int, dim: int, offset: float) -> None:
    x = offset + torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(1)) * 5
    codes = quantize(x, bits, dim)
    # The range is stretched by rounding the zero down and the scale up, to half precision.
    low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    zero = codes.zero.float()
    step = (high - zero) / (2**bits - 1) * (1 + 2 * torch.finfo(torch.float16).eps)
    assert bool(((dequantize(codes, bits, x.dtype) - x).abs() <= step / 2 + 1e-6 * abs(offset)).all())
    assert bool((zero <= low).all())
    assert bool((low - zero <= 1e-3 * low.abs()).all())


@pytest.mark.parametrize("bits", [8, 4])
def test_bytes_held(bits: int) -> None:
    codes = quantize(torch.randn(7, 32, 64), bits, -1)
    assert codes.code.dtype == torch.uint8
    assert codes.code.numel() == 7 * 32 * 64 * bits // 8
    assert codes.scale.numel() == codes.zero.numel() == 7 * 32
    assert codes.scale.dtype == codes.zero.dtype == torch.float16


def test_rounds_as_pytorch_does_for_the_same_scale_and_zero() -> None:
    x = torch.rand(1, 256, generator=torch.Generator().manual_seed(2)) * 7 - 2
    codes = quantize(x, 8, -1)
    scale, zero = float(codes.scale), float(codes.zero)
    expected = zero + torch.fake_quantize_per_tensor_affine(x - zero, scale, 0, 0, 255)
    torch.testing.assert_close(dequantize(codes, 8, torch.float32), expected, atol=1e-6, rtol=0)


def test_four_bits_come_back_in_order() -> None:
    x = torch.arange(16.0)[None]
    codes = quantize(x, 4, -1)
    assert codes.code.tolist() == [[low | (low + 1) << 4 for low in range(0, 16, 2)]]
    assert torch.equal(dequantize(codes, 4, torch.float32), x)


def test_equal_numbers_come_back() -> None:
    x = torch.full((2, 8), 0.5)
    assert torch.equal(dequantize(quantize(x, 8, -1), 8, x.dtype), x)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="bits=3: numbers are kept in 8 or 4 bits"):
        quantize(torch.zeros(4, 4), 3, -1)
    with pytest.raises(ValueError, match="the last dimension is 5"):
        quantize(torch.zeros(4, 5), 4, -2)
