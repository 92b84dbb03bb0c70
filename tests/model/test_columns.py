"""Linear maps laid out for single tokens give what `torch.nn.Linear` gives, whatever comes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from handscroll.model.columns import SHARED, LinearByColumns


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 24), (256, 300), (512, SHARED // 512)])
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_linear(inputs: int, outputs: int, bias: bool, threads: int) -> None:
    linear = nn.Linear(inputs, outputs, bias=bias)
    by_columns = LinearByColumns(copy.deepcopy(linear))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for shape in ((1, 1, inputs), (1, inputs), (inputs,), (2, 3, inputs)):
                x = torch.randn(shape)
                torch.testing.assert_close(by_columns(x), linear(x), atol=2e-6, rtol=0)
    finally:
        torch.set_num_threads(before)


def test_other_dtypes_and_gradients_take_the_usual_way() -> None:
    linear = nn.Linear(8, 4)
    by_columns = LinearByColumns(copy.deepcopy(linear))
    x = torch.randn(1, 8, requires_grad=True)
    (found,), (expected,) = (torch.autograd.grad(each(x).sum(), x) for each in (by_columns, linear))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    with torch.inference_mode():
        x_double = torch.randn(1, 8, dtype=torch.float64)
        torch.testing.assert_close(by_columns.double()(x_double), linear.double()(x_double), atol=1e-12, rtol=0)
