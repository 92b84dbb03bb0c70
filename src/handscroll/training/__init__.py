"""Training: the loop, its objectives, optimizers and sources, and checkpoints that resume to the same bits.

    source = PackedSource(rows, window=512, windows_per_batch=8, seed=7)
    options = TrainOptions(steps=300, optimizer=MuonOptions(), schedule=WarmupStableDecay(warmup=20))
    for progress in train({"model": model}, CausalLM(), source, options, Path("runs/first"), resume=True):
        print(progress.step, progress.loss, progress.tokens_per_second)

What it promises:
- a token weighs the same wherever it was computed: sums are divided by the count of the whole accumulated batch;
- order and packing are pure functions of (seed, epoch, lengths), a step's randomness of (seed, step); the position in a
  run is two integers, and a killed run that is resumed ends with the bits and the log of an uninterrupted one;
- a checkpoint is whole or absent, holds no pickle, and is refused by a run that is described otherwise;
- an evaluation disturbs nothing: a run with it and one without it have the same losses;
- several processes (`parallel.py`) make the updates that one would make, up to the order of sums.

What it leaves to others: text and masks (text/), the network (model/), printing and wiring (recipes, which choose what
is evaluated on and pass callbacks).

To add an objective:
1. write `objectives/NAME.py`: a frozen dataclass of at most ten options, its paper in the docstring;
   `needs = Needs(...)` says what it asks of tokenizer, model and packing;
2. `prepare(models, rows, rng)`: check the rows, add what must be computed first, or return them as they are;
3. `make_batch(windows, rng)`: decide what is supervised, call `collate`, raise ValueError where nothing is;
4. `loss(models, batch)`: return `Loss({name: Term(sum, count, weight)}, metrics, {"model": hidden.aux})`; never divide;
5. add one line to `OBJECTIVES`;
6. the contract tests in `tests/training/` run over every entry of the dict by themselves.
"""

from handscroll.training.batch import Batch, TokenRow, Window, collate
from handscroll.training.evaluation import Evaluated, Evaluation
from handscroll.training.loop import train
from handscroll.training.mixture import MixedSource
from handscroll.training.objectives import (
    GLM,
    OBJECTIVES,
    SFT,
    CausalLM,
    Ernie,
    Loss,
    MaskedLM,
    Models,
    Needs,
    Objective,
    PrefixLM,
    Share,
    SkippedPositions,
    Term,
    check_model,
    text_window,
)
from handscroll.training.optimizers import OPTIMIZERS, AdamWOptions, MuonOptions, OptimizerOptions
from handscroll.training.progress import Progress
from handscroll.training.schedule import SCHEDULES, Constant, Cosine, Schedule, WarmupStableDecay
from handscroll.training.sources import PackedSource, Source
from handscroll.training.token_file import TokenFile
from handscroll.training.token_rows import TokenList, TokenRows, TokenView
from handscroll.training.trainer import Trainer, TrainOptions
from handscroll.training.vocabulary import Vocabulary

__all__ = [
    "GLM",
    "OBJECTIVES",
    "OPTIMIZERS",
    "SCHEDULES",
    "SFT",
    "AdamWOptions",
    "Batch",
    "CausalLM",
    "Constant",
    "Cosine",
    "Ernie",
    "Evaluated",
    "Evaluation",
    "Loss",
    "MaskedLM",
    "MixedSource",
    "Models",
    "MuonOptions",
    "Needs",
    "Objective",
    "OptimizerOptions",
    "PackedSource",
    "PrefixLM",
    "Progress",
    "Schedule",
    "Share",
    "SkippedPositions",
    "Source",
    "Term",
    "TokenFile",
    "TokenList",
    "TokenRow",
    "TokenRows",
    "TokenView",
    "TrainOptions",
    "Trainer",
    "Vocabulary",
    "WarmupStableDecay",
    "Window",
    "check_model",
    "collate",
    "text_window",
    "train",
]
