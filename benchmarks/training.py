"""Training steps per time: Handscroll's trainer against a plain loop over transformers' Qwen2, same weights and tokens.

    python benchmarks/training.py
    python benchmarks/training.py --rounds 21 --threads 2 --json

A round is one step of 8 windows of 512 tokens with AdamW and clipping, on each side in turn. "full windows" are 512
tokens each; "documents" are 24 to 512 tokens long, which Handscroll packs into windows and the plain loop pads to the
longest of eight. Only real tokens are counted. Both sides must report the same loss after their
first step on full windows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import VOCABULARY, WINDOW, Clock, Run, arguments, compare, in_turns, load_theirs, save_tiny_model, show

from handscroll.model import load_model
from handscroll.training import AdamWOptions, CausalLM, PackedSource, TokenRow, Trainer, TrainOptions
from handscroll.training.allocator import keep_freed_memory

BATCH, RATE, CLIP = 8, 1e-3, 1.0
BAR = 1.2


def tokens(seed: int, length: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, length)


def lengths_of_documents(number: int) -> list[int]:
    return np.random.default_rng(0).integers(24, WINDOW + 1, number).tolist()


class FullWindows:
    """A source of windows that are one document each."""

    def windows(self, step: int, micro: int) -> list[list[TokenRow]]:
        return [[TokenRow(tokens(step * BATCH + row, WINDOW))] for row in range(BATCH)]


def ours(folder: Path, documents: bool) -> Callable[[], list[Run]]:
    model = load_model(folder)
    rows = [TokenRow(tokens(row, length)) for row, length in enumerate(lengths_of_documents(2000))]
    source = PackedSource(rows, WINDOW, BATCH, seed=0) if documents else FullWindows()
    options = TrainOptions(steps=1_000_000, optimizer=AdamWOptions(learning_rate=RATE), clip=CLIP)
    trainer = Trainer({"model": model}, CausalLM(), source, options)
    keep_freed_memory()  # as `train` does
    step = -1

    def work() -> list[Run]:
        nonlocal step
        step += 1
        clock = Clock()
        update = trainer.step(step)
        return [clock.run(update.tokens, update.loss)]

    return work


def theirs(folder: Path, documents: bool) -> Callable[[], list[Run]]:
    model = load_theirs(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    lengths = lengths_of_documents(2000)
    step = -1

    def batch(step: int) -> tuple[dict[str, torch.Tensor], int]:
        places = [(step * BATCH + row) % len(lengths) for row in range(BATCH)]
        sizes = [lengths[place] if documents else WINDOW for place in places]
        seeds = places if documents else [step * BATCH + row for row in range(BATCH)]
        rows = [torch.from_numpy(tokens(seed, size)) for seed, size in zip(seeds, sizes, strict=True)]
        ids_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask_BT = torch.arange(ids_BT.shape[1]) < torch.tensor(sizes)[:, None]
        labels_BT = ids_BT.masked_fill(~mask_BT, -100)
        inputs = {"input_ids": ids_BT, "labels": labels_BT}
        return inputs | ({"attention_mask": mask_BT.long()} if documents else {}), sum(sizes)

    def work() -> list[Run]:
        nonlocal step
        step += 1
        clock = Clock()
        inputs, count = batch(step)
        optimizer.zero_grad()
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return [clock.run(count, float(loss.detach()))]

    return work


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="counted steps of each side (default 15)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        save_tiny_model(Path(folder) / "model")
        for name, documents in (("full windows", False), ("documents", True)):
            work = (Path(folder) / "model", documents)
            sides = {"Handscroll": (ours, work), "transformers": (theirs, work)}
            rounds = in_turns(sides, options.rounds, options.threads)
            runs = {side: [run for (run,) in each] for side, each in rounds.items()}
            first, second = (each[0].result for each in runs.values())
            if not documents and abs(first - second) > 0.05:
                raise SystemExit(f"the sides don't compute the same: losses {first} and {second}")
            rows.append(compare(name, runs, options.threads, BAR))
    show(rows, options.threads, options.json, batch=f"{BATCH} x {WINDOW}", rounds=options.rounds)


if __name__ == "__main__":
    main()
