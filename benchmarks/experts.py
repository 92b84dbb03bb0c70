"""A training step of a mixture of experts, beside a dense model of equal active parameters and transformers' Mixtral.

    python benchmarks/experts.py
    python benchmarks/experts.py --experts 32 --top-k 4 --rounds 21 --threads 2 --json

A round is forward, backward and AdamW over 4 windows of 512 tokens, on each side in turn; every side is a process of
its own. The dense model's feed-forward is as wide as the experts that a token takes, so that both multiply a token by
as many numbers but for the router. Handscroll's and transformers' mixture start from the same folder and must report
the same loss of likelihood after their first step. Both add a balance loss, Handscroll a z-loss as well.
Peak is what a process holds at most beyond what it held before it made the model. Decoding is one token after
another behind 64, without the time of reading them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import VOCABULARY, WINDOW, Clock, Run, arguments, compare, in_turns, load_theirs, show, tiny_config
from data import memory, resident

from handscroll.kvcache import Full
from handscroll.model import ModelConfig, Transformer, load_model, save_model
from handscroll.model.checkpoint import lay_by_columns
from handscroll.model.footprint import parameter_count
from handscroll.model.routing import ExpertOptions
from handscroll.training import AdamWOptions, CausalLM, TokenRow, Trainer, TrainOptions
from handscroll.training.allocator import keep_freed_memory

BATCH, RATE, READ, DECODED = 4, 1e-3, 64, 64


def mixture(count: int, top_k: int) -> ModelConfig:
    """As wide as a dense feed-forward of 384, of which a token takes a part: what Mixtral can say."""
    width = 384 // top_k
    experts = ExpertOptions(count, width, top_k=top_k, balance_loss=0.01, router_z_loss=0.001)
    return replace(tiny_config(), qkv_bias=False, feedforward_width=width, experts=experts)


def dense(config: ModelConfig) -> ModelConfig:
    assert config.experts is not None
    return replace(config, experts=None, feedforward_width=config.experts.width * config.experts.top_k)


def tokens(step: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.random.default_rng(step).integers(0, VOCABULARY, (BATCH, WINDOW))


class Windows:
    """A source of windows that are one document each."""

    def windows(self, step: int, micro: int) -> list[list[TokenRow]]:
        return [[TokenRow(row)] for row in tokens(step)]


def ours(folder: Path) -> Callable[[], list[Run]]:
    before = resident()
    options = TrainOptions(steps=1_000_000, optimizer=AdamWOptions(learning_rate=RATE))
    trainer = Trainer({"model": load_model(folder)}, CausalLM(), Windows(), options)
    keep_freed_memory()  # as `train` does
    step = -1

    def work() -> list[Run]:
        nonlocal step
        step += 1
        clock = Clock()
        update = trainer.step(step)
        return [clock.run(update.tokens, (update.terms["likelihood"], memory("VmHWM") - before))]

    return work


def theirs(folder: Path) -> Callable[[], list[Run]]:
    import transformers.models.mixtral.modeling_mixtral  # noqa: F401 - what it takes is no part of the model

    before = resident()
    model = load_theirs(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    step = -1

    def work() -> list[Run]:
        nonlocal step
        step += 1
        clock = Clock()
        ids_BT = torch.from_numpy(tokens(step))
        optimizer.zero_grad()
        output = model(input_ids=ids_BT, labels=ids_BT, use_cache=False, output_router_logits=True)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        likelihood = float(output.loss.detach() - model.router_aux_loss_coef * output.aux_loss.detach())
        return [clock.run(ids_BT.numel(), (likelihood, memory("VmHWM") - before))]

    return work


def decoding(folder: Path) -> Callable[[], list[Run]]:
    model = load_model(folder)
    lay_by_columns(model)
    ids_BT = torch.from_numpy(tokens(0)[:1, : READ + DECODED])

    @torch.no_grad()
    def work() -> list[Run]:
        cache = Full().start(model.config, model.position, 1)
        model(ids_BT[:, :READ], cache=cache)
        clock = Clock()
        for place in range(READ, READ + DECODED):
            model(ids_BT[:, place : place + 1], cache=cache)
        return [clock.run(DECODED, (0.0, 0.0))]

    return work


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="counted steps of each side (default 11)")
    parser.add_argument("--experts", type=int, default=8, help="experts of a layer (default 8)")
    parser.add_argument("--top-k", type=int, default=2, help="experts that a token takes (default 2)")
    options = parser.parse_args()
    config = mixture(options.experts, options.top_k)
    with tempfile.TemporaryDirectory() as folder:
        place, plain = Path(folder) / "mixture", Path(folder) / "dense"
        save_model(Transformer(config), place)
        save_model(Transformer(dense(config)), plain)
        training = in_turns(
            {"experts": (ours, (place,)), "dense": (ours, (plain,)), "transformers": (theirs, (place,))},
            options.rounds,
            options.threads,
        )
        generating = in_turns(
            {"experts": (decoding, (place,)), "dense": (decoding, (plain,))}, options.rounds, options.threads
        )
    runs = {name: [run for (run,) in each] for name, each in training.items()}
    first, other = (runs[name][0].result[0] for name in ("experts", "transformers"))
    if abs(first - other) > 0.05:
        raise SystemExit(f"the sides don't compute the same: losses {first} and {other}")
    rows = []
    for name in ("dense", "transformers"):
        row = compare("a step", {"experts": runs["experts"], "other": runs[name]}, options.threads)
        peaks = (round(runs[side][-1].result[1]) for side in ("experts", name))
        rows.append({**row, "bar": name, "peak MB": next(peaks), "other's peak MB": next(peaks)})
    steps = {name: [run for (run,) in each] for name, each in generating.items()}
    row = compare("decoding", {"experts": steps["experts"], "other": steps["dense"]}, options.threads)
    rows.append({**row, "bar": "dense", "peak MB": None, "other's peak MB": None})
    rows = [{"beside": row.pop("bar"), **row} for row in rows]
    parameters = {"parameters": parameter_count(config), "active": parameter_count(config, active=True)}
    parameters["dense"] = parameter_count(dense(config))
    show(rows, options.threads, options.json, batch=f"{BATCH} x {WINDOW}", rounds=options.rounds, **parameters)


if __name__ == "__main__":
    main()
