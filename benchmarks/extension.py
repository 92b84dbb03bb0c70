"""What each way of stretching positions is worth to a trained model, without training and after some.

    python benchmarks/extension.py quickstart/model novel.txt
    python benchmarks/extension.py quickstart/model novel.txt --to 2048 --methods none,yarn --steps 20 --json

Pieces of `--to` tokens are held out from the end of the text. The last tokens of each piece are predicted twice: with
no more before them than the model's window holds ("window"), and with the whole piece before them ("stretched"). So the
columns tell what a method costs short texts, and what the longer context is worth. Tuned rows have trained on the rest
of the text, in windows of `--to` tokens, all by the same recipe; `none` is only given the longer window.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import handscroll
from handscroll.measure.likelihood import token_nll
from handscroll.measure.table import Table
from handscroll.model import Transformer
from handscroll.model.stretching import METHODS, stretch, with_config

UNTREATED = "none"
DEFAULT = (UNTREATED, "linear", "ntk", "dynamic", "yarn")


def recipe(options: argparse.Namespace, method: str, text: Path, out: Path) -> dict[str, Any]:
    """The one recipe that all methods are tuned by."""
    return {
        "model": {"from": options.model, "stretch": {"method": method, "to": options.to}},
        "data": {"files": str(text)},
        "optimizer": {"name": "adamw", "learning_rate": options.learning_rate},
        "schedule": {"name": "cosine", "warmup": max(1, options.steps // 20), "final": 0.1},
        "train": {"steps": options.steps, "windows_per_step": options.windows_per_step, "seed": options.seed},
        "out": str(out),
    }


def perplexity(model: Transformer, pieces: Sequence[Sequence[int]], context: int, predicted: int) -> float:
    """Of the last `predicted` tokens of each piece, with `context` tokens of it, themselves included."""
    nll = torch.zeros((), dtype=torch.float64)
    for piece in pieces:
        tokens_T = torch.tensor(piece[-context:])
        with torch.inference_mode():
            hidden_TE = model.hidden(tokens_T[None]).last_BTE[0, -predicted - 1 : -1]
        nll += token_nll(model, hidden_TE, tokens_T[-predicted:]).double().sum()
    return math.exp(nll / (predicted * len(pieces)))


def main() -> None:
    options = arguments()
    model, tokenizer = handscroll.load(options.model, dtype=torch.float32)
    window = model.config.max_positions
    text = options.text.read_text(encoding="utf-8")
    held_out = tokenizer.encode(text[-20 * options.to * options.pieces :])[-options.to * options.pieces :]
    pieces = [held_out[start : start + options.to] for start in range(0, len(held_out), options.to)]
    if any(len(piece) < options.to for piece in pieces):
        raise SystemExit(f"{options.text} is shorter than {options.pieces} pieces of {options.to} tokens")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        rest = Path(folder) / "text.txt"
        rest.write_text(text[: len(text) - len(tokenizer.decode(held_out))], encoding="utf-8")

        def add(method: str, steps: int, stretched: Transformer) -> None:
            columns = [perplexity(stretched, pieces, context, window // 2) for context in (window, options.to)]
            rows.append((method, steps, *columns))
            print(f"{method}, {steps} steps: {columns[0]:.2f}, {columns[1]:.2f}", file=sys.stderr)

        for method in options.methods.split(","):
            add(method, 0, with_config(model, stretch(model.config, method, options.to)))
            if options.steps:
                out = Path(folder) / method
                for progress in handscroll.train(recipe(options, method, rest, out)):
                    if progress.step % 20 == 0:
                        print(f"{method}: step {progress.step}, loss {progress.loss:.3f}", file=sys.stderr)
                add(method, options.steps, handscroll.load(out / "model").model)
    names = ("method", "steps", f"window, {window:,} tokens", f"stretched, {options.to:,} tokens")
    show(Table("Perplexity of the same tokens", names, tuple(rows)), options)


def show(table: Table, options: argparse.Namespace) -> None:
    setting = {name: str(value) for name, value in vars(options).items() if name != "json"}
    if options.json:
        print(json.dumps({"setting": setting, "rows": table.records()}, indent=2))
        return
    from rich.console import Console

    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    Console().print(table.to_rich())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("text", type=Path, help="a text of the kind that the model was trained on")
    parser.add_argument("--to", type=int, default=4096, help="the longer window, in tokens (default 4096)")
    parser.add_argument("--methods", default=",".join(DEFAULT), help=f"some of {','.join(METHODS)}, by commas")
    parser.add_argument("--steps", type=int, default=200, help="tuning steps; 0: without tuning only (default 200)")
    parser.add_argument("--windows-per-step", type=int, default=2, help="of --to tokens each (default 2)")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="the highest of the tuning (default 3e-4)")
    parser.add_argument("--pieces", type=int, default=8, help="held-out pieces of --to tokens (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the tuning's order (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
