"""What the benchmarks share: the tiny model, sides that run in turns in processes of their own, tables and JSON.

Each side is a process with its own libraries, allocator and threads; only one works at a time, and rounds alternate, so
that whatever else the machine does meets both alike. The first round of each side is not counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from handscroll.model import ModelConfig, Transformer, save_model

VOCABULARY, WINDOW = 4096, 512


@dataclass(frozen=True)
class Run:
    """One measured piece of work: how many real tokens, in how much time, and what came out, to be compared."""

    tokens: int
    cpu_seconds: float
    seconds: float
    result: Any = None


class Clock:
    """CPU and wall time since it was made."""

    def __init__(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def run(self, tokens: int, result: Any = None) -> Run:
        return Run(tokens, time.process_time() - self.cpu, time.perf_counter() - self.wall, result)


def tiny_config(max_positions: int = WINDOW) -> ModelConfig:
    """3 layers, width 128, 4 heads of width 64 on 2 kv heads, as Qwen2 has them."""
    return ModelConfig(VOCABULARY, 128, 3, 4, 2, 64, 384, max_positions, qkv_bias=True, tied_embeddings=True)


def save_tiny_model(folder: Path, max_positions: int = WINDOW) -> None:
    """Random weights."""
    model = Transformer(tiny_config(max_positions), seed=0)
    move_away(model)
    save_model(model, folder)


def move_away(model: Transformer) -> None:
    """Random weights far enough from their start that the likeliest token is rarely in doubt (mutates)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def load_theirs(folder: Path) -> Any:
    """The folder as transformers reads it, in float32, with its default attention."""
    os.environ["HF_HUB_OFFLINE"], os.environ["TRANSFORMERS_VERBOSITY"] = "1", "error"
    from transformers import AutoModelForCausalLM, logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


# What a process starts with (function, arguments); the function returns the work of one round.
Side = tuple[Callable[..., Callable[[], list[Run]]], tuple[Any, ...]]


def in_turns(sides: Mapping[str, Side], rounds: int, threads: int) -> dict[str, list[list[Run]]]:
    """Starts every side, `function(*arguments)`, in a process of its own and calls what it returns, in turns.

    Returns each side's rounds, without the first one.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, side in sides.items():
        pipes[name], end = spawn.Pipe()
        processes.append(spawn.Process(target=_serve, args=(end, threads, side), daemon=True))
        processes[-1].start()
        end.close()
    runs: dict[str, list[list[Run]]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            runs[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.close()
    for process in processes:
        process.join()
    return {name: each[1:] for name, each in runs.items()}


def _serve(pipe: Connection, threads: int, side: Side) -> None:
    torch.set_num_threads(threads)
    function, arguments = side
    work = function(*arguments)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(work())


def rate(runs: Sequence[Run], threads: int) -> tuple[float, float, float]:
    """Median, smallest and largest tokens per second: of CPU time at one thread, of wall time at more."""
    rates = [run.tokens / (run.cpu_seconds if threads == 1 else run.seconds) for run in runs]
    return statistics.median(rates), min(rates), max(rates)


def compare(name: str, runs: Mapping[str, Sequence[Run]], threads: int, bar: float | None = None) -> dict[str, Any]:
    """One line of a table: both sides' rates, and how many times as fast the first one is, round by round."""
    (ours, our_runs), (theirs, their_runs) = runs.items()
    pairs = zip(our_runs, their_runs, strict=True)
    ratios = [rate([first], threads)[0] / rate([second], threads)[0] for first, second in pairs]
    return {
        "what": name,
        ours: _spread(rate(our_runs, threads)),
        theirs: _spread(rate(their_runs, threads)),
        "times": round(statistics.median(ratios), 2),
        "bar": bar,
    }


def _spread(values: tuple[float, float, float]) -> str:
    median, low, high = (f"{value:,.0f}" for value in values)
    return f"{median} ({low}-{high})"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes; its help is the script's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="1 counts CPU-seconds, more count wall time (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def show(rows: Sequence[Mapping[str, Any]], threads: int, as_json: bool, **setting: Any) -> None:
    """Prints the rows under the setting they were measured in."""
    clock = "CPU-second" if threads == 1 else "second"
    setting = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": threads,
        "unit": f"tokens per {clock}",
        "model": asdict(tiny_config()),
        **setting,
    }
    if as_json:
        print(json.dumps({"setting": setting, "rows": rows}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in setting.items() if name != "model"))
    table = [list(rows[0]), *([("-" if value is None else str(value)) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
