"""What every test gets: no network, quiet libraries, one thread, and random numbers that don't depend on the order."""

import os

# Read by the libraries when they are imported, so they stand before any import of them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The tests' models are tiny: two threads wait for each other longer than they work, above all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import random

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - it is the global generator that a test might reach by accident
    torch.manual_seed(0)
