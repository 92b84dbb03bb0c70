"""What a step frees stays in the process: the same tensors again cost no page faults."""

import resource

import pytest
import torch

from handscroll.training.allocator import keep_freed_memory


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_freed_memory_is_kept() -> None:
    if not keep_freed_memory():
        pytest.skip("this C library has no mallopt")
    faults = []
    for _ in range(4):
        before = page_faults()
        tensors = [torch.ones(500_000) for _ in range(20)]
        assert len(tensors) == 20
        del tensors
        faults.append(page_faults() - before)
    # 40 MB are 10,000 pages, and as many faults each time without it.
    assert faults[-1] < 500
