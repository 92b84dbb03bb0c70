"""Randomness of a step: a pure function of (seed, step), whatever was drawn before, in this process or another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(*numbers: int) -> int:
    """A seed of 63 bits from non-negative numbers; any change of any of them gives an unrelated seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*numbers: int) -> torch.Generator:
    """A generator on the host seeded by `derive`."""
    return torch.Generator().manual_seed(derive(*numbers))


def numbers_of(rng: torch.Generator) -> np.random.Generator:
    """A generator of numpy's that goes by this one, from which it takes one number (mutates)."""
    return np.random.default_rng(int(torch.randint(1 << 62, (), generator=rng)))


@contextmanager
def seeded(*numbers: int, device: torch.device) -> Iterator[None]:
    """Seeds PyTorch's global generators, which dropout draws from, and puts the caller's state back afterwards."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(derive(*numbers))
        yield
