"""Chunked cross-entropy against all logits at once: time of loss and gradients, and the memory that they take.

    python benchmarks/cross_entropy.py
    python benchmarks/cross_entropy.py --vocabularies 32000,151936 --tokens 2048 --width 512 --json

Each side is a process of its own and computes the same: the loss of `--tokens` tokens, its gradients by hidden states
and by the output matrix. "memory" is by how much the process's largest size grows beyond its inputs; the gradient of
the matrix, which both sides leave, is a part of it. The losses must be equal.
"""

from __future__ import annotations

import resource
from collections.abc import Callable

import torch
from common import Clock, Run, arguments, compare, in_turns, show

from handscroll.kernels.likelihood import cross_entropy_sum, cross_entropy_sum_dense
from handscroll.training.allocator import keep_freed_memory

LOSSES = {"chunked": cross_entropy_sum, "dense": cross_entropy_sum_dense}


def side(name: str, vocabulary: int, tokens: int, width: int) -> Callable[[], list[Run]]:
    generator = torch.Generator().manual_seed(0)
    hidden_NE = torch.randn(tokens, width, generator=generator).requires_grad_()
    weight_VE = (torch.randn(vocabulary, width, generator=generator) / width**0.5).requires_grad_()
    targets_N = torch.randint(0, vocabulary, (tokens,), generator=generator)
    keep_freed_memory()
    before = largest()

    def work() -> list[Run]:
        hidden_NE.grad = weight_VE.grad = None
        clock = Clock()
        loss = LOSSES[name](hidden_NE, weight_VE, targets_N)
        (loss.sum / loss.count).backward()
        return [clock.run(tokens, (float(loss.nll), largest() - before))]

    return work


def largest() -> int:
    """The largest size that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--vocabularies", default="32000,151936", help="sizes (default 32000,151936)")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a step (default 2048)")
    parser.add_argument("--width", type=int, default=512, help="of the hidden states (default 512)")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds of each side (default 3)")
    options = parser.parse_args()
    rows = []
    for vocabulary in map(int, options.vocabularies.split(",")):
        sides = {name: (side, (name, vocabulary, options.tokens, options.width)) for name in LOSSES}
        rounds = in_turns(sides, options.rounds, options.threads)
        runs = {name: [run for (run,) in each] for name, each in rounds.items()}
        losses = [each[-1].result[0] / options.tokens for each in runs.values()]
        if abs(losses[0] - losses[1]) > 1e-4:
            raise SystemExit(f"the sides don't compute the same: losses {losses[0]} and {losses[1]}")
        row = compare(f"vocabulary {vocabulary:,}", runs, options.threads)
        row |= {f"{name} memory": f"{each[-1].result[1] / 1e6:,.0f} MB" for name, each in runs.items()}
        rows.append(row)
    show(rows, options.threads, options.json, tokens=options.tokens, width=options.width, rounds=options.rounds)


if __name__ == "__main__":
    main()
