"""Reading a long text into a cache: tokens per time, and memory, at several lengths.

    python benchmarks/reading.py
    python benchmarks/reading.py --lengths 16384,131072 --policies block_memory --json

Each policy reads one text of random tokens up to the largest length; "on average" is from the text's beginning to that
length, "at the end" over the last 8,192 tokens before it. The model was given a window of 512.
"""

from __future__ import annotations

import torch
from common import VOCABULARY, Clock, arguments, rate, show, tiny_config

from handscroll.generation import read
from handscroll.kvcache import make_policy
from handscroll.model import Transformer

END = 8192


def measure(name: str, lengths: list[int], threads: int) -> list[dict[str, object]]:
    model = Transformer(tiny_config()).eval()
    ids = torch.randint(VOCABULARY, (max(lengths),), generator=torch.Generator().manual_seed(0)).tolist()
    warm = make_policy(name).start(model.config, model.position, 1)
    for _ in read(model, [ids[:END]], warm):
        pass
    cache, start, rows = make_policy(name).start(model.config, model.position, 1), 0, []
    whole = Clock()
    for length in sorted(lengths):
        for stop in (max(start, length - END), length):
            clock, first = Clock(), start
            if stop > start:
                for _ in read(model, [ids[start:stop]], cache):
                    pass
                start = stop
        end, average, held = clock.run(length - first), whole.run(length), cache.bytes()
        rows.append(
            {
                "policy": name,
                "tokens": f"{length:,}",
                "on average": f"{rate([average], threads)[0]:,.0f}",
                "at the end": f"{rate([end], threads)[0]:,.0f}",
                "device MB": round(held.device / 1e6, 1),
                "host MB": round(held.host / 1e6, 1),
            }
        )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--lengths", default="16384,131072,1048576", help="tokens, separated by commas")
    parser.add_argument("--policies", default="sliding_window,block_memory", help="separated by commas")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lengths = [int(length) for length in options.lengths.split(",")]
    rows = [row for name in options.policies.split(",") for row in measure(name, lengths, options.threads)]
    show(rows, options.threads, options.json)


if __name__ == "__main__":
    main()
