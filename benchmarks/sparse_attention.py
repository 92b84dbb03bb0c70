"""Sparse, linear and pooled attention against dense attention in PyTorch's fused kernel: time and memory by length.

    python benchmarks/sparse_attention.py
    python benchmarks/sparse_attention.py --lengths 8192,65536 --dense-up-to 8192 --json

Attention alone, of given queries, keys and values: one row, 4 heads over 2 kv heads of width 64, causal, float32. The
pattern is made anew each time, and counted. Each way of attending has a process of its own; "memory" is by how much it
grows beyond the inputs, and has the gradients in it where there is a backward pass. Twice the length is twice the
time and memory where growth is linear; pooled attention's time grows with the square over the stride.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from common import Clock, arguments, show
from torch import Tensor

from handscroll.model import Layout, ModelConfig
from handscroll.model.attention import (
    LinearAttentionOptions,
    PooledOptions,
    SparseOptions,
    direct_memories,
    make_attention,
)
from handscroll.model.position import make_position
from handscroll.model.slots import AttentionOptions
from handscroll.training.allocator import keep_freed_memory

HEADS, KV_HEADS, WIDTH = 4, 2, 64
WAYS: dict[str, AttentionOptions | None] = {
    "dense (SDPA)": None,
    "sliding, 256": SparseOptions(window=256),
    "sliding, 64 global, 3 random blocks": SparseOptions(window=256, global_tokens=64, random_blocks=3),
    "linear": LinearAttentionOptions(),
    "pooled, 256 and 1 of 16": PooledOptions(window=256, stride=16),
}


class Task(NamedTuple):
    """A way of attending, its lengths in ascending order, and up to which of them gradients are computed."""

    way: str
    lengths: list[int]
    backward_up_to: int
    threads: int


def attend(options: AttentionOptions | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if options is None:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    length = query.shape[2]
    config = ModelConfig(2, HEADS * WIDTH, 1, HEADS, KV_HEADS, WIDTH, 1, max_positions=length, attention=options)
    layout = Layout.rows([length])
    memory = direct_memories(config, make_position(config), layout, 0.0)[0]
    out: Tensor = make_attention(config).attend(memory, query, key, value, layout, None).out_BHTD  # type: ignore[operator]
    return out


def measured(task: Task) -> list[dict[str, Any]]:
    """Lines of the table, in a fresh process."""
    torch.set_num_threads(task.threads)
    keep_freed_memory()
    options, rows = WAYS[task.way], []
    attend(options, *inputs(1024)).sum().backward()
    before = largest()
    for length in task.lengths:
        given = inputs(length)
        before_this = before + sum(x.nbytes for x in given)
        row: dict[str, Any] = {"attention": task.way, "tokens": f"{length:,}"}
        with torch.no_grad():
            clock = Clock()
            attend(options, *given)
            row |= {"forward": seconds(clock, task.threads), "memory": megabytes(largest() - before_this)}
        row |= {"and backward": None, "memory with it": None}
        if length <= task.backward_up_to:
            clock = Clock()
            attend(options, *given).sum().backward()
            row |= {"and backward": seconds(clock, task.threads), "memory with it": megabytes(largest() - before_this)}
        rows.append(row)
    return rows


def inputs(length: int) -> list[Tensor]:
    return [torch.randn(1, heads, length, WIDTH).requires_grad_() for heads in (HEADS, KV_HEADS, KV_HEADS)]


def seconds(clock: Clock, threads: int) -> str:
    run = clock.run(0)
    return f"{run.cpu_seconds if threads == 1 else run.seconds:.2f} s"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def largest() -> int:
    """The largest size that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--lengths", default="8192,16384,32768,65536", help="(default 8192,16384,32768,65536)")
    parser.add_argument("--dense-up-to", type=int, default=32768, help="longest dense attention (default 32768)")
    parser.add_argument("--dense-backward-up-to", type=int, default=16384, help="and with gradients (default 16384)")
    options = parser.parse_args()
    lengths = sorted(map(int, options.lengths.split(",")))
    tasks = [Task(way, lengths, lengths[-1], options.threads) for way in WAYS if WAYS[way] is not None]
    dense = [length for length in lengths if length <= options.dense_up_to]
    tasks.append(Task("dense (SDPA)", dense, options.dense_backward_up_to, options.threads))
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for each in pool.imap(measured, tasks):
            print(f"{each[0]['attention']}: done", file=sys.stderr)
            rows += each
    clock = "CPU-seconds" if options.threads == 1 else "seconds"
    show(rows, options.threads, options.json, unit=clock, heads=HEADS, kv_heads=KV_HEADS, head_width=WIDTH)


if __name__ == "__main__":
    main()
