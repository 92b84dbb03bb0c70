"""Decoding behind a long text: each way of remembering, and transformers with its own cache, one row, greedy, float32.

    python benchmarks/cached.py
    python benchmarks/cached.py --lengths 8192 --long 0 --rounds 3 --json

Model: 8 layers, width 512, 8 heads over 2 kv heads of width 64, feed-forward 1408, vocabulary 4096, 26.7 M random
weights. Nobody reads the text: caches are filled with random keys and values, for `full` the very same ones that
transformers gets, so that both must say the same tokens. A policy that attends to what it chooses is filled by reading
them, layer by layer. `--long` is the length of the last line, block_memory alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import Clock, Run, arguments, compare, in_turns, load_theirs, rate, show
from torch import Tensor

from handscroll.kvcache import make_policy
from handscroll.kvcache.full_layer import FullLayer
from handscroll.model import Cache, Layout, ModelConfig, Transformer, load_model, save_model
from handscroll.model.checkpoint import lay_by_columns

WINDOW, CHUNK = 4096, 4096
POLICIES: dict[str, Any] = {
    "sliding_window": {"policy": "sliding_window", "window": 2048},
    "attention_sinks": {"policy": "attention_sinks", "window": 2048},
    "block_memory": "block_memory",
    "quantized, 8 bits": {"policy": "quantized", "bits": 8},
    "quantized, 4 bits": {"policy": "quantized", "bits": 4},
    "offloaded": "offloaded",
}
BAR, BOUNDED_BAR = 5.0, 3.0


def config(max_positions: int) -> ModelConfig:
    return ModelConfig(4096, 512, 8, 8, 2, 64, 1408, max_positions, tied_embeddings=True)


def random_keys(length: int, layer: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values (1, K, T, D), a chunk at a time, the same in every process."""
    generator = torch.Generator().manual_seed(layer)
    for first in range(0, length, CHUNK):
        size = min(CHUNK, length - first)
        key, value = (torch.randn(1, 2, size, 64, generator=generator) for _ in range(2))
        yield key, value


def filled(model: Transformer, policy: Any, length: int) -> Cache:
    cache = make_policy(policy).start(model.config, model.position, 1)
    for number, layer in enumerate(cache.layers):
        start = 0
        for key, value in random_keys(length, number):
            layout = Layout.rows([key.shape[2]], [start])
            if isinstance(layer, FullLayer) and not layer.rotates_at_use:
                layer.append(key, value, layout)
                layer.store.settle()
            else:
                layer.attend(key.repeat_interleave(4, dim=1), key, value, layout)
            start += key.shape[2]
    return cache


def ours(folder: Path, policy: Any, length: int, new_tokens: int) -> Callable[[], list[Run]]:
    model = load_model(folder).eval()
    lay_by_columns(model)
    with torch.inference_mode():
        cache = filled(model, policy, length)

    def work() -> list[Run]:
        with torch.inference_mode():
            fork, token, said = cache.select([0]), torch.zeros(1, 1, dtype=torch.int64), []
            model(token, cache=fork)
            clock = Clock()
            for _ in range(new_tokens):
                token = model(token, cache=fork)[:, -1:].argmax(-1)
                said.append(int(token))
            return [clock.run(new_tokens, said)]

    return work


def theirs(folder: Path, length: int, new_tokens: int) -> Callable[[], list[Run]]:
    from transformers import DynamicCache

    model = load_theirs(folder).eval()

    def work() -> list[Run]:
        with torch.inference_mode():
            cache, token, said = DynamicCache(config=model.config), torch.zeros(1, 1, dtype=torch.int64), []
            for layer in range(model.config.num_hidden_layers):
                pairs = list(random_keys(length, layer))
                cache.update(torch.cat([k for k, _ in pairs], 2), torch.cat([v for _, v in pairs], 2), layer)
            model(token, past_key_values=cache, use_cache=True)
            clock = Clock()
            for _ in range(new_tokens):
                token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
                said.append(int(token))
            return [clock.run(new_tokens, said)]

    return work


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--lengths", default="8192,32768", help="cached tokens, separated by commas")
    parser.add_argument("--long", type=int, default=1 << 20, help="cached tokens of the last line; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each side (default 5)")
    parser.add_argument("--new-tokens", type=int, default=16, help="tokens generated in a round (default 16)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, new_tokens = Path(name) / "model", options.new_tokens
        save_model(Transformer(config(1 << 16), seed=0), folder)
        bounded = Path(name) / "bounded"
        save_model(Transformer(config(WINDOW), seed=0), bounded)
        for length in map(int, options.lengths.split(",")):
            other = (theirs, (folder, length, new_tokens))
            for policy in ("full", *POLICIES):
                named = POLICIES.get(policy, policy)
                place = folder if policy in ("full", "offloaded") or "bits" in policy else bounded
                sides = {"Handscroll": (ours, (place, named, length, new_tokens)), "transformers": other}
                rounds = in_turns(sides, options.rounds, options.threads)
                runs = {side: [run for (run,) in each] for side, each in rounds.items()}
                said = {side: each[0].result for side, each in runs.items()}
                if policy == "full" and said["Handscroll"] != said["transformers"]:
                    raise SystemExit(f"the sides don't say the same: {said}")
                bar = BAR if policy == "full" and length == 8192 else BOUNDED_BAR if place is bounded else None
                rows.append(compare(f"{policy}, {length:,} cached", runs, options.threads, bar))
        if options.long:
            side = {"Handscroll": (ours, (bounded, "block_memory", options.long, new_tokens))}
            runs = {"Handscroll": [run for (run,) in in_turns(side, options.rounds, options.threads)["Handscroll"]]}
            median, low, high = rate(runs["Handscroll"], options.threads)
            line = {
                "what": f"block_memory, {options.long:,} cached",
                "Handscroll": f"{median:,.0f} ({low:,.0f}-{high:,.0f})",
            }
            rows.append({**line, "transformers": None, "times": None, "bar": None})
    show(
        rows, options.threads, options.json, new_tokens=options.new_tokens, rounds=options.rounds, size="26.7 M weights"
    )


if __name__ == "__main__":
    main()
