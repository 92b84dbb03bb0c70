"""Reading a long text into a cache, and decoding after it: tokens per time, and memory, at several lengths.

    python benchmarks/reading.py
    python benchmarks/reading.py --lengths 16384,131072 --policies block_memory --json
    python benchmarks/reading.py --policies '{"policy": "block_memory", "candidates": 0}'

Each policy reads one text of random tokens up to the largest length; "on average" is from the text's beginning to that
length, "at the end" over the last 32,768 tokens before it, and "selection" is the share of their time that block_memory
needs to choose blocks, sorting new ones into lists included: while it reads on, "and last tile" where the text ends
there, whose last queries look closest. "decoding" continues the text by 64 tokens, one by one. The model was given a
window of 512.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import torch
from common import VOCABULARY, arguments, show, tiny_config

from handscroll.generation import generate, read
from handscroll.kvcache import make_policy
from handscroll.kvcache.block_layer import BlockLayer
from handscroll.model import Cache, Transformer

# Tokens: the latest of a text, as many as go into lists at a time; those of its last tile; those of an answer.
LATEST, TILE, DECODED = 32768, 64, 64


class Timer:
    """Seconds by a clock since they were last taken, and of these the seconds in which blocks were chosen."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.begun, self.choosing = clock, clock(), 0.0

    def watch(self, select: Callable[..., None]) -> Callable[..., None]:
        def watched(*args: Any, **options: Any) -> None:
            begun = self.clock()
            select(*args, **options)
            self.choosing += self.clock() - begun

        return watched

    def take(self) -> tuple[float, float]:
        begun, choosing = self.begun, self.choosing
        self.begun, self.choosing = self.clock(), 0.0
        return self.begun - begun, choosing


def measure(policy: str, lengths: list[int], timer: Timer) -> list[dict[str, object]]:
    name = json.loads(policy) if policy.startswith("{") else policy
    model = Transformer(tiny_config()).eval()
    ids = torch.randint(VOCABULARY, (max(lengths),), generator=torch.Generator().manual_seed(0)).tolist()

    def timed(first: int, last: int, cache: Cache, more: int = 0) -> tuple[float, float]:
        timer.take()
        for _ in read(model, [ids[first:last]], cache, more=more) if last > first else ():
            pass
        return timer.take()

    timed(0, LATEST, make_policy(name).start(model.config, model.position, 1))
    cache, start, reading, rows = make_policy(name).start(model.config, model.position, 1), 0, 0.0, []
    for length in sorted(lengths):
        latest = max(start, length - LATEST)
        before, _ = timed(start, latest, cache, more=LATEST)
        going_on, chosen = timed(latest, length - TILE, cache, more=TILE)
        ending, chosen_last = timed(length - TILE, length, cache)
        start, reading = length, reading + before + going_on + ending
        held = cache.bytes()
        for _ in generate(model, [[0]], cache.select([0]), max_new_tokens=DECODED):
            pass
        decoding, _ = timer.take()
        rows.append(
            {
                "policy": policy,
                "tokens": f"{length:,}",
                "on average": f"{length / reading:,.0f}",
                "at the end": f"{(length - TILE - latest) / going_on:,.0f}",
                "selection": f"{chosen / going_on:.1%}",
                "and last tile": f"{(chosen + chosen_last) / (going_on + ending):.1%}",
                "decoding": f"{DECODED / decoding:,.0f}",
                "device MB": round(held.device / 1e6, 1),
                "host MB": round(held.host / 1e6, 1),
            }
        )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--lengths", default="16384,131072,1048576", help="tokens, separated by commas")
    parser.add_argument("--policies", nargs="+", default=["sliding_window", "block_memory"], help="names, or JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lengths = [int(length) for length in options.lengths.split(",")]
    timer = Timer(time.process_time if options.threads == 1 else time.perf_counter)
    BlockLayer._select = timer.watch(BlockLayer._select)  # type: ignore[method-assign]
    rows = [row for name in options.policies for row in measure(name, lengths, timer)]
    show(rows, options.threads, options.json)


if __name__ == "__main__":
    main()
