"""Corpora larger than memory: time and peak memory of tokenizing one and of serving its windows, and what a step waits.

    python benchmarks/data.py --megabytes 200 --scratch /tmp
    python benchmarks/data.py --megabytes 20 --json

A jsonl file is generated, texts of a chronicle's sentences and, every tenth row, a chat. "in a file" is how a training
run holds tokens, "in memory" how it would without. Each is done in a process of its own, whose peak is that above
what the imports, tokenizer and model take; "mapped" is the part of it that the system takes back when it likes. Then
a small model (see benchmarks/training.py) takes 20 steps of 8 windows of 512 tokens.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from common import VOCABULARY, WINDOW, arguments, save_tiny_model, show

from handscroll.model import load_model
from handscroll.recipes.data import read_data
from handscroll.recipes.schema import Data
from handscroll.text import Corpus, Skipped, Tokenizer, row_text
from handscroll.text.chronicle import write_document
from handscroll.training import CausalLM, PackedSource, TrainOptions, train

BATCH, STEPS, WINDOWS = 8, 20, 2000
MEGABYTE = 1_000_000


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the generated corpus (default 200)")
    parser.add_argument("--scratch", type=Path, help="a folder with room for twice as much (default: the system's)")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        save_tiny_model(folder / "model")
        size = generate(folder / "corpus.jsonl", options.megabytes * MEGABYTE)
        sample = [row_text(located.row) for located in islice(Corpus(folder / "corpus.jsonl"), 500)]
        Tokenizer.train(sample, VOCABULARY).save(folder / "tokenizer")
        for work, *given in ((reading, False), (reading, True), (serving, True), (serving, False)):
            rows.append(apart(work, folder, options.threads, *given))
    show(rows, options.threads, options.json, corpus=f"{size / MEGABYTE:,.0f} MB", unit="MB of the corpus per second")


def generate(path: Path, size: int) -> int:
    """Texts of some hundred words, shuffled sentences of a chronicle; every tenth row is a chat."""
    rng, written = random.Random(0), 0
    sentences = write_document(0, ("en", "zh"), 40_000, split="train").text.split("\n")
    sentences = [piece for line in sentences for piece in line.split(". ") if piece]
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            text = ". ".join(rng.choices(sentences, k=rng.randint(5, 40)))
            chat = [{"role": "user", "content": text}, {"role": "assistant", "content": rng.choice(sentences)}]
            row = {"messages": chat} if rng.random() < 0.1 else {"text": text}
            written += len(json.dumps(row, ensure_ascii=False).encode()) + 1
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return written


def apart(work: Any, *given: Any) -> dict[str, Any]:
    """What `work` returns, done in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return dict(pool.apply(work, given))


def reading(folder: Path, threads: int, skip: bool) -> dict[str, Any]:
    """Rows as they are, nothing kept."""
    started, before = time.perf_counter(), resident()
    corpus = Corpus(folder / "corpus.jsonl", Skipped() if skip else None)
    rows = sum(1 for _ in corpus)
    seconds = time.perf_counter() - started
    return {
        "what": f"reading {rows:,} rows" + (", bad ones would be skipped" if skip else ""),
        "MB/s": round(corpus.size / MEGABYTE / seconds, 1),
        "seconds": round(seconds, 1),
        "peak MB": round(memory("VmHWM") - before),
        "mapped MB": 0,
        "waiting": None,
    }


def serving(folder: Path, threads: int, in_file: bool) -> dict[str, Any]:
    """Tokens, windows, and steps that train on them."""
    torch.set_num_threads(threads)
    tokenizer, model = Tokenizer.load(folder / "tokenizer"), load_model(folder / "model")
    before, files, started = resident(), memory("RssFile"), time.perf_counter()
    data = Data(files=(str(folder / "corpus.jsonl"),))
    [rows] = read_data(data, tokenizer, "causal_lm", folder / "tokens" if in_file else None)
    seconds = time.perf_counter() - started
    source = PackedSource(rows, WINDOW, BATCH, seed=0)
    started = time.perf_counter()
    source.windows(0, 0)
    packing = time.perf_counter() - started
    started = time.perf_counter()
    for step in range(WINDOWS // BATCH):
        source.windows(step, 0)
    served = (time.perf_counter() - started) / WINDOWS
    mapped, peak = memory("RssFile") - files, memory("VmHWM") - before
    *_, last = train({"model": model}, CausalLM(), source, TrainOptions(STEPS))
    held = f"{source.rows.lengths_N.sum():,} tokens in {'a file' if in_file else 'memory'}"
    return {
        "what": f"{held}; packing {packing:.1f} s, {served * 1e6:.0f} us a window",
        "MB/s": round((folder / "corpus.jsonl").stat().st_size / MEGABYTE / seconds, 1),
        "seconds": round(seconds, 1),
        "peak MB": round(peak),
        "mapped MB": round(mapped),
        "waiting": f"{last.waiting:.2%} of a step",
    }


def resident() -> float:
    """What is resident now, in MB; the peak is counted anew from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name: str) -> float:
    """A figure of this process in MB, such as the peak of what is resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / MEGABYTE


if __name__ == "__main__":
    main()
