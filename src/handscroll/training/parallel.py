"""Several processes of one machine that train one model: each takes a part of every step's micro batches.

`torchrun` starts the processes; `joined` lets this one find the others. All hold the same weights: gradients and counts
are summed over all of them, so that each makes the same update, equal to that of one process up to the order of sums.
Knows nothing of models. Without `joined` there is one process, and every function here does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

Value = TypeVar("Value")

# Others wait while the first reads a corpus; a process that is gone is noticed by who started them.
LONGEST = timedelta(days=2)


@contextmanager
def joined() -> Iterator[None]:
    """The processes of a `torchrun` while the block runs; nothing where this process was started alone."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(dist.get_node_local_rank())
    dist.init_process_group(backend, timeout=LONGEST)
    try:
        yield
        # Whoever started the processes ends them all once one has gone.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _is_joined() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _is_joined() else 1


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block before the others do: what it writes there, they find.

    Where it fails there the others never begin, and it alone says why.
    """
    if not is_first():
        dist.barrier()
    yield
    if is_first() and size() > 1:
        dist.barrier()


def share(count: int) -> range:
    """Those of `count` things that this process takes, as many as any other. ValueError where they can't be divided."""
    if count % size():
        raise ValueError(
            f"micro_batches={count} can't be divided among {size()} processes: give a multiple of {size()}, or start "
            "fewer of them"
        )
    own = count // size()
    return range(rank() * own, (rank() + 1) * own)


def gather(value: Value) -> list[Value]:
    """The value of every process, in their order."""
    if size() == 1:
        return [value]
    found: list[Value] = [value] * size()
    dist.all_gather_object(found, value)
    return found


def add_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Leaves in every process the sum of all processes' gradients (mutates)."""
    if size() == 1:
        return
    waiting = []
    for parameter in parameters:
        # All take part in every sum: what one process didn't use, another may have.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        waiting.append(dist.all_reduce(parameter.grad, async_op=True))
    for work in waiting:
        work.wait()


def check_same(description: str) -> None:
    """ValueError unless all processes describe their run alike: they would train different models into one."""
    if len(set(gather(description))) > 1:
        raise ValueError("the processes read different data or options: give all of them the same recipe and files")


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()
