"""Training steps per time by architecture: Handscroll's trainer against a plain loop over transformers.

    python benchmarks/architectures.py
    python benchmarks/architectures.py --only gpt2,mixtral --rounds 7 --json

As `training.py` with full windows: the tiny model, with each architecture's slots, is written by Handscroll, and both
sides load that folder. Both must report the same loss after their first step. The last line is the geometric mean.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import VOCABULARY, arguments, compare, in_turns, show, tiny_config

from handscroll.model import ModelConfig, Transformer, save_model
from handscroll.model.position import AlibiOptions
from handscroll.model.routing import ExpertOptions
from handscroll.model.slots import EmbeddingOptions, LearnedOptions, RopeOptions
from training import BAR, BATCH, WINDOW, ours, theirs

PLAIN: dict[str, Any] = {"qkv_bias": False}
# Multi-head, LayerNorm and a feed-forward of two matrices, as before Llama.
OLDER: dict[str, Any] = {
    "num_kv_heads": 4,
    "head_width": 32,
    "norm": "layer",
    "norm_eps": 1e-5,
    "feedforward_width": 512,
}
BIASES: dict[str, Any] = {"qkv_bias": True, "output_bias": True, "feedforward_bias": True}
ROTATED = RopeOptions(pairing="adjacent", share=0.5)
EXPERTS = ExpertOptions(count=8, width=192, top_k=2, balance_loss=0.0, router_z_loss=0.0)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": PLAIN,
    "mistral": PLAIN | {"sliding_window": 256},
    "qwen2": {},
    "qwen3": PLAIN | {"qk_norm": True},
    "stablelm": PLAIN | {"norm": "layer", "head_width": 32},
    "gpt2": OLDER | BIASES | {"position": LearnedOptions(), "feedforward": "gelu_tanh"},
    "bloom": OLDER
    | BIASES
    | {"position": AlibiOptions(), "feedforward": "gelu_tanh", "embedding": EmbeddingOptions(norm=True)},
    "glm4": {"position": ROTATED, "norm_placement": "sandwich", "tied_embeddings": False, "norm_eps": 1.5625e-07},
    "mixtral": PLAIN | {"experts": EXPERTS, "feedforward_width": 192, "tied_embeddings": False},
    "qwen3_moe": PLAIN | {"experts": EXPERTS, "qk_norm": True, "tied_embeddings": False},
}


def config_of(name: str) -> ModelConfig:
    return replace(tiny_config(), **ARCHITECTURES[name])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", default=",".join(ARCHITECTURES), help="architectures, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="counted steps of each side (default 5)")
    options = parser.parse_args()
    rows = []
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            model = Transformer(config_of(name), seed=0)
            save_model(model, Path(folder) / "model")
            work = (Path(folder) / "model", False)
            rounds = in_turns(
                {"Handscroll": (ours, work), "transformers": (theirs, work)}, options.rounds, options.threads
            )
        runs = {side: [run for (run,) in each] for side, each in rounds.items()}
        first, second = (each[0].result for each in runs.values())
        if abs(first - second) > 0.05:
            raise SystemExit(f"{name}: the sides don't compute the same: losses {first} and {second}")
        rows.append(compare(name, runs, options.threads, BAR))
    mean = statistics.geometric_mean(row["times"] for row in rows)
    rows.append(dict.fromkeys(rows[0]) | {"what": "geometric mean", "times": round(mean, 2), "bar": BAR})
    show(rows, options.threads, options.json, batch=f"{BATCH} x {WINDOW}", rounds=options.rounds, vocabulary=VOCABULARY)


if __name__ == "__main__":
    main()
