"""What a longer text is worth to models of one size whose positions differ: ALiBi, dynamic ALiBi and RoPE.

    python benchmarks/alibi.py document.txt
    python benchmarks/alibi.py document.txt --steps 400 --contexts 128,512,1024 --json

Two models are trained from scratch on the beginning of the text by one recipe, in windows of `--window` tokens: one has
RoPE, one ALiBi. Then the last tokens of held-out pieces, the same ones each time, are predicted with more and more of
the piece before them. RoPE and ALiBi are only given the longer text; the stretched rows are the same weights with their
positions stretched, without further training.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from extension import perplexity, show

import handscroll
from handscroll.measure.table import Table
from handscroll.model.stretching import stretch, with_config

# Positions of a new model, and by which methods they are stretched.
STRETCHES = {"alibi": ("dynamic_alibi",), "rope": ("dynamic", "yarn")}


def recipe(options: argparse.Namespace, position: str, text: Path, out: Path) -> dict[str, Any]:
    """The one recipe that both models are trained by."""
    return {
        "model": {"width": 128, "layers": 2, "heads": 8, "window": options.window, "position": position},
        "tokenizer": {"vocab_size": 1024},
        "data": {"files": str(text)},
        "optimizer": {"name": "muon"},
        "schedule": {"name": "cosine", "warmup": max(1, options.steps // 20), "final": 0.1},
        "train": {"steps": options.steps, "windows_per_step": 16, "seed": options.seed},
        "out": str(out),
    }


def main() -> None:
    options = arguments()
    text = options.text.read_text(encoding="utf-8")
    contexts = [int(context) for context in options.contexts.split(",")]
    longest, predicted = max(contexts), options.window // 2
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        beginning = Path(folder) / "text.txt"
        beginning.write_text(text[: len(text) * 3 // 4], encoding="utf-8")
        for position, methods in STRETCHES.items():
            out = Path(folder) / position
            for progress in handscroll.train(recipe(options, position, beginning, out)):
                if progress.step % 50 == 0:
                    print(f"{position}: step {progress.step}, loss {progress.loss:.3f}", file=sys.stderr)
            model, tokenizer = handscroll.load(out / "model")
            held_out = tokenizer.encode(text[len(text) * 3 // 4 :])
            starts = range(0, len(held_out) - longest, longest)[: options.pieces]
            if len(starts) < options.pieces:
                raise SystemExit(f"{options.text} is shorter than {options.pieces} pieces of {longest} tokens")
            pieces = [held_out[start : start + longest] for start in starts]
            models = {position: model}
            models |= {each: with_config(model, stretch(model.config, each, longest)) for each in methods}
            for name, each in models.items():
                rows.append((name, *(perplexity(each, pieces, context, predicted) for context in contexts)))
    show(
        Table("Perplexity of the same tokens", ("positions", *(f"{each:,} tokens" for each in contexts)), tuple(rows)),
        options,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a text; its last quarter is held out")
    parser.add_argument("--window", type=int, default=128, help="tokens of a training window (default 128)")
    parser.add_argument("--contexts", default="128,512,1024", help="in tokens, by commas (default 128,512,1024)")
    parser.add_argument("--steps", type=int, default=400, help="training steps of each model (default 400)")
    parser.add_argument("--pieces", type=int, default=16, help="held-out pieces of the longest length (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
