"""What the tests of this room share: a tiny model, and documents that repeat themselves so that they can be learnt."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from handscroll.model import ModelConfig, Transformer
from handscroll.training import TokenRow

VOCABULARY = 50


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bits are compared with those of another process: both use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_model() -> Callable[..., Transformer]:
    def make(seed: int = 1, **changes: Any) -> Transformer:
        sizes = {"vocab_size": VOCABULARY, "width": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
        inner = {"head_width": 8, "feedforward_width": 24, "max_positions": 64}
        return Transformer(ModelConfig(**{**sizes, **inner, **changes}), seed=seed)

    return make


@pytest.fixture
def make_rows() -> Callable[..., list[TokenRow]]:
    """Rows of these lengths, each a random pattern of 4 tokens over and over, alternately supervised by halves."""

    def make(*lengths: int, seed: int = 0, masked: bool = False) -> list[TokenRow]:
        rng = np.random.default_rng(seed)
        rows = [np.resize(rng.integers(1, VOCABULARY, 4), length) for length in lengths]
        return [TokenRow(ids, np.arange(len(ids)) >= len(ids) // 2 if masked else None) for ids in rows]

    return make
