"""What a norm costs: each kind against LayerNorm, alone and as the norm of a model in a step of training.

    python benchmarks/norms.py
    python benchmarks/norms.py --norms rms,power --tokens 2048 --widths 128,1024 --rounds 7 --json

RMSNorm's paper (arXiv 1910.07467) measures 7 to 64 % less time than LayerNorm for whole models, in the code of 2019.
Each side is a process of its own. "alone" is output and gradients of `--tokens` tokens of a width; "in a model" the
forward and backward pass of the tiny model over as many tokens, without an optimizer. No answers are compared: the
sides compute different things.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import VOCABULARY, WINDOW, Clock, Run, arguments, compare, in_turns, show, tiny_config

from handscroll.model import Layout, Transformer
from handscroll.model.config import RUNNING_NORMS
from handscroll.model.norm import NORMS, make_norm
from handscroll.model.slots import NormStatistics
from handscroll.training.allocator import keep_freed_memory

REFERENCE = "layer"


def side(name: str, tokens: int, widths: tuple[int, ...]) -> Callable[[], list[Run]]:
    """A round: the norm alone over each width, then a model's step."""
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    # Past the warm-up, as nearly all of a run is.
    statistics = {"norm_statistics": NormStatistics(warmup=0)} if name in RUNNING_NORMS else {}
    config = dataclasses.replace(tiny_config(), norm=name, **statistics)
    rows = tokens // WINDOW
    layout = Layout.rows([WINDOW] * rows)
    alone = []
    for width in widths:
        norm = make_norm(config, width).train()
        torch.nn.init.ones_(norm.weight)
        if norm.bias is not None:
            torch.nn.init.zeros_(norm.bias)
        shape = (rows, WINDOW, width)
        alone.append((norm, torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)))
    model = Transformer(config).train()
    tokens_BT = torch.randint(0, VOCABULARY, (rows, WINDOW), generator=generator)

    def work() -> list[Run]:
        runs = []
        for norm, x_BTE, upstream_BTE in alone:
            x_BTE = x_BTE.detach().requires_grad_()
            norm.zero_grad()
            clock = Clock()
            # Often enough for the clock: one pass over a narrow width takes about a millisecond.
            for _ in range(10):
                norm(x_BTE, layout)[0].backward(upstream_BTE)
            runs.append(clock.run(10 * tokens))
        model.zero_grad()
        clock = Clock()
        F.cross_entropy(model(tokens_BT, layout).flatten(0, 1), tokens_BT.flatten()).backward()
        runs.append(clock.run(tokens))
        return runs

    return work


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--norms", default=",".join(NORMS), help=f"by commas, each against {REFERENCE} (default all)")
    parser.add_argument("--tokens", type=int, default=4 * WINDOW, help=f"a multiple of {WINDOW} (default {4 * WINDOW})")
    parser.add_argument("--widths", default="128,1024", help="of the norm alone (default 128,1024)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each side (default 5)")
    options = parser.parse_args()
    if options.tokens < WINDOW or options.tokens % WINDOW:
        parser.error(f"--tokens {options.tokens}: give a multiple of {WINDOW}")
    names = [name for name in options.norms.split(",") if name != REFERENCE]
    unknown = [name for name in names if name not in NORMS]
    if unknown or not names:
        parser.error(f"--norms {options.norms}: give some of {', '.join(NORMS)}")
    widths = tuple(int(width) for width in options.widths.split(","))
    sides = {name: (side, (name, options.tokens, widths)) for name in (*names, REFERENCE)}
    rounds = in_turns(sides, options.rounds, options.threads)
    works = [*(f"alone, width {width}" for width in widths), "in a model"]
    rows = []
    for name in names:
        for place, what in enumerate(works):
            pair = {"norm": rounds[name], REFERENCE: rounds[REFERENCE]}
            runs = {shown: [each[place] for each in its] for shown, its in pair.items()}
            rows.append(compare(f"{name}, {what}", runs, options.threads))
    show(rows, options.threads, options.json, tokens=options.tokens, rounds=options.rounds)


if __name__ == "__main__":
    main()
