"""What float32, bfloat16 and float16 can hold, and where training notices: ranges, sums, softmax, updates, gradients.

    python benchmarks/precision.py MODEL TEXT
    python benchmarks/precision.py MODEL TEXT --json

Everything is measured by computing it in the type, not read from a table; the type's own word stands beside it in the
code as a check. The gradients are those that MODEL, a folder, has in float32 on the first windows of TEXT, a file.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import handscroll
from handscroll.training import AdamWOptions, CausalLM, PackedSource, TokenRow, Trainer, TrainOptions
from handscroll.training.precision import PRECISIONS

WINDOWS, WIDTH = 8, 4096
SCALES = (1.0, 2.0**8, 2.0**16)
LEARNING_RATE, UPDATES = 1e-3, 1000


def last(holds: Callable[[float], bool], start: float, factor: float) -> float:
    """The last of start, start * factor, ... for which `holds` is true."""
    value = start
    while holds(value * factor):
        value *= factor
    return value


def ranges(dtype: torch.dtype) -> dict[str, float]:
    """Largest, smallest normal, smallest subnormal number, and the step at 1."""

    def cast(value: float) -> float:
        return float(torch.tensor(value, dtype=torch.float64).to(dtype))

    epsilon = last(lambda x: cast(1 + x) > 1, 1.0, 0.5)
    info = torch.finfo(dtype)
    top = last(lambda x: math.isfinite(cast(x)), 1.0, 2.0)
    found = {
        "largest": top * (2 - epsilon),
        # Where a number's step stops shrinking with it.
        "smallest normal": last(lambda x: cast(x * (1 + epsilon)) != cast(x), 1.0, 0.5),
        "smallest subnormal": last(lambda x: cast(x) > 0, 1.0, 0.5),
        "epsilon": epsilon,
    }
    assert found == {
        "largest": info.max,
        "smallest normal": info.tiny,
        "smallest subnormal": info.tiny * info.eps,
        "epsilon": info.eps,
    }
    return found


def sums(dtype: torch.dtype) -> dict[str, float]:
    """Where adding ones one by one stalls, and the size of features at which their sum of squares overflows."""
    one = torch.ones((), dtype=dtype)

    def square_sum(size: float) -> float:
        return float(torch.full((WIDTH,), size, dtype=dtype).square().sum(dtype=dtype))

    return {
        "a count by ones stalls at": last(lambda n: float(torch.tensor(n, dtype=dtype) + one) > n, 1.0, 2.0) * 2,
        f"sum of {WIDTH} squares is infinite from features of": last(lambda x: math.isfinite(square_sum(x)), 1.0, 1.01),
    }


def softmaxes(dtype: torch.dtype) -> dict[str, float]:
    """Exponentials without and with the maximum subtracted, and how far apart two logits near 30 must be."""

    def exponential(x: float) -> float:
        return float(torch.tensor(x, dtype=dtype).exp())

    logit = torch.tensor(30.0, dtype=dtype)
    return {
        "exp overflows above": last(lambda x: math.isfinite(exponential(x)), 1.0, 1.001),
        "exp(-x) is 0 above": last(lambda x: exponential(-x) > 0, 1.0, 1.001),
        "logits near 30 tell differences from": last(lambda x: float(logit + x) > 30, 1.0, 0.99),
    }


def updates(dtype: torch.dtype) -> dict[str, float]:
    """A weight of 1 that is moved by a thousandth a thousand times, and the least change that moves it at all."""
    weight = torch.ones((), dtype=dtype)
    for _ in range(UPDATES):
        weight = weight - torch.tensor(LEARNING_RATE, dtype=dtype)
    moved = last(lambda x: float(torch.ones((), dtype=dtype) - torch.tensor(x, dtype=dtype)) < 1, 1.0, 0.99)
    return {f"1 - {UPDATES} x {LEARNING_RATE:g}": float(weight), "1 is moved by updates from": moved}


def gradients(folder: str, file: str) -> Tensor:
    """All gradients of a model on its first windows of a text, as one vector; those that are 0 in float32 left out."""
    model, tokenizer = handscroll.load(folder, dtype=torch.float32)
    window = model.config.max_positions
    with open(file, encoding="utf-8") as text:
        ids = tokenizer.encode(text.read(WINDOWS * window * 8))
    source = PackedSource([TokenRow(ids)], window, WINDOWS, seed=0)
    trainer = Trainer({"model": model}, CausalLM(), source, TrainOptions(1, optimizer=AdamWOptions(), clip=0))
    trainer.accumulate(0)
    found = torch.cat([parameter.grad.flatten() for parameter in trainer.parameters if parameter.grad is not None])
    return found[found != 0]


def kept(gradient_N: Tensor, dtype: torch.dtype) -> dict[str, float]:
    """The share of gradients that a type makes 0, or infinite, by the scale of the loss."""
    found = {}
    for scale in SCALES:
        cast_N = (gradient_N.double() * scale).to(dtype)
        found[f"gradients lost at scale {scale:g}"] = float((cast_N == 0).double().mean())
        found[f"gradients overflown at scale {scale:g}"] = float(cast_N.isinf().double().mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder")
    parser.add_argument("text", help="a file")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    gradient_N = gradients(options.model, options.text)
    columns: dict[str, dict[str, Any]] = {
        name: ranges(dtype) | sums(dtype) | softmaxes(dtype) | updates(dtype) | kept(gradient_N, dtype)
        for name, dtype in PRECISIONS.items()
    }
    if options.json:
        print(json.dumps({"gradients": len(gradient_N), **columns}))
        return
    print(f"| of {len(gradient_N):,} gradients that are not 0 | {' | '.join(columns)} |")
    print("|---|" + "---|" * len(columns))
    for row in next(iter(columns.values())):
        print(f"| {row} | {' | '.join(f'{column[row]:.4g}' for column in columns.values())} |")


if __name__ == "__main__":
    main()
