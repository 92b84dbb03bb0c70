"""FlashAttention in the open beside the formula and PyTorch's kernel: time, and the memory that each needs.

    python benchmarks/flash_attention.py
    python benchmarks/flash_attention.py --lengths 512,1024,2048 --rounds 5 --json

Causal attention, forward and backward, of one row of 4 heads of width 64 over 2 kv heads, in float32. Each measurement
of memory is a process of its own: its peak while attention runs, above what it was before (Linux only). "naive" holds
all scores; "fused" is what training runs. The last column says how many times the memory of the length before is
needed: of a doubling, 2 where memory grows with the length, 4 where with its square.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handscroll.kernels.attention import KERNELS, attention, attention_with_weights
from handscroll.kernels.flash_attention import causal_sight, flash_attention

HEADS, KV_HEADS, WIDTH = 4, 2, 64


def inputs(length: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, heads, length, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def attend(kernel: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if kernel == "naive":
        return attention_with_weights(query, key, value, None, True)[0]
    if kernel == "sdpa":
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    if kernel == "flash":
        return flash_attention(query, key, value, causal_sight(query.shape[2], key.shape[2]))
    return attention(query, key, value, None, True)


def both_ways(kernel: str, given: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(attend(kernel, *given).sum(), given)


def peak_kib() -> int:
    """This process's own; what getrusage tells begins with the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def memory(job: tuple[str, int, int]) -> float:
    """MiB that this process had at its peak beyond what it had with inputs and libraries; run in a fresh process."""
    kernel, length, threads = job
    torch.set_num_threads(threads)
    both_ways(kernel, inputs(64))
    given = inputs(length)
    before = peak_kib()
    both_ways(kernel, given)
    return (peak_kib() - before) / 1024


def seconds(length: int, rounds: int, threads: int) -> dict[str, float]:
    """The median of each kernel's rounds, in turns; CPU time at one thread, wall time at more."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    given = inputs(length)
    spent: dict[str, list[float]] = {kernel: [] for kernel in (*KERNELS, "sdpa")}
    for _ in range(rounds):
        for kernel, each in spent.items():
            started = clock()
            both_ways(kernel, given)
            each.append(clock() - started)
    return {kernel: statistics.median(each) for kernel, each in spent.items()}


def differences(length: int = 512) -> float:
    """The largest between the gradients of any two, before anything is measured."""
    given = inputs(length)
    naive = both_ways("naive", given)
    others = [both_ways(kernel, given) for kernel in ("flash", "fused", "sdpa")]
    return max(float((ours - slow).abs().max()) for other in others for ours, slow in zip(other, naive, strict=True))


def main() -> None:
    options = arguments()
    lengths = [int(length) for length in options.lengths.split(",")]
    if (apart := differences()) > 1e-4:
        raise SystemExit(f"the kernels don't compute the same: gradients are {apart} apart")
    spawn = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    if not options.json:
        clock = "CPU-seconds, one thread" if options.threads == 1 else f"seconds, {options.threads} threads"
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        print(f"{machine}, torch {torch.__version__}, {clock}, {options.rounds} rounds")
    for length in lengths:
        spent = seconds(length, options.rounds, options.threads)
        for kernel, each in spent.items():
            with spawn.Pool(1) as fresh:
                needed = fresh.apply(memory, ((kernel, length, options.threads),))
            before = next((row["MiB"] for row in reversed(rows) if row["kernel"] == kernel), None)
            growth = None if not before else round(needed / before, 1)
            row = {"tokens": length, "kernel": kernel, "seconds": round(each, 4), "MiB": round(needed, 1)}
            rows.append(row | {"times the memory before": growth})
            if not options.json:
                print("  ".join(f"{name} {value}" for name, value in rows[-1].items() if value is not None), flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192", help="in tokens, by commas (default: to 8192)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of each kernel (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="1 counts CPU-seconds, more count wall time (default 1)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
