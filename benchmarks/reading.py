"""Reading a long text into a cache, and decoding after it: tokens per time, and memory, at several lengths.

    python benchmarks/reading.py
    python benchmarks/reading.py --lengths 16384,131072 --policies block_memory --json
    python benchmarks/reading.py --policies '{"policy": "block_memory", "candidates": 0}'

Each policy reads one text of random tokens up to the largest length; "on average" is from the text's beginning to that
length, "at the end" over the last 8,192 tokens before it, and "selection" is the share of their time that block_memory
needs to choose blocks. "decoding" continues the text by 64 tokens, one by one. The model was given a window of 512.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from common import VOCABULARY, Clock, arguments, rate, show, tiny_config

from handscroll.generation import generate, read
from handscroll.kvcache import make_policy
from handscroll.kvcache.block_layer import BlockLayer
from handscroll.model import Transformer

END, DECODED = 8192, 64


class Selecting:
    """CPU and wall time spent in choosing blocks, while `watched`."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        select = BlockLayer._select

        def timed(layer: BlockLayer, *args: object, **options: object) -> None:
            clock = Clock()
            select(layer, *args, **options)  # type: ignore[arg-type]
            run = clock.run(0)
            self.cpu, self.wall = self.cpu + run.cpu_seconds, self.wall + run.seconds

        BlockLayer._select = timed  # type: ignore[method-assign]
        try:
            yield
        finally:
            BlockLayer._select = select  # type: ignore[method-assign]


def measure(policy: str, lengths: list[int], threads: int) -> list[dict[str, object]]:
    name = json.loads(policy) if policy.startswith("{") else policy
    model = Transformer(tiny_config()).eval()
    ids = torch.randint(VOCABULARY, (max(lengths),), generator=torch.Generator().manual_seed(0)).tolist()
    warm = make_policy(name).start(model.config, model.position, 1)
    for _ in read(model, [ids[:END]], warm):
        pass
    cache, start, rows = make_policy(name).start(model.config, model.position, 1), 0, []
    reading = 0.0
    for length in sorted(lengths):
        for stop in (max(start, length - END), length):
            clock, first, selecting = Clock(), start, Selecting()
            if stop > start:
                with selecting.watched():
                    for _ in read(model, [ids[start:stop]], cache):
                        pass
                start = stop
            end = clock.run(length - first)
            taken, chosen = (end.cpu_seconds, selecting.cpu) if threads == 1 else (end.seconds, selecting.wall)
            reading += taken
        fork, clock = cache.select([0]), Clock()
        for _ in generate(model, [[0]], fork, max_new_tokens=DECODED):
            pass
        decoded, held = clock.run(DECODED), cache.bytes()
        rows.append(
            {
                "policy": policy,
                "tokens": f"{length:,}",
                "on average": f"{length / reading:,.0f}",
                "at the end": f"{rate([end], threads)[0]:,.0f}",
                "selection": f"{chosen / taken:.1%}",
                "decoding": f"{rate([decoded], threads)[0]:,.0f}",
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
    rows = [row for name in options.policies for row in measure(name, lengths, options.threads)]
    show(rows, options.threads, options.json)


if __name__ == "__main__":
    main()
