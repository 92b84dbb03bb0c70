"""What a quickstart is asked for, what is the same for all of them, and whether such a run can be made in its folder.

Leaves the run itself to `quickstart.py`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handscroll.kernels.likelihood import CHUNK
from handscroll.model import ModelConfig
from handscroll.model.footprint import require, training_bytes
from handscroll.recipes import material as texts
from handscroll.recipes.curriculum import STAGES, TASKS_FROM, WINDOW, Stage, with_tasks
from handscroll.recipes.output import check_writable
from handscroll.text.chronicle import estimate_tokens
from handscroll.training import MuonOptions, TrainOptions, WarmupStableDecay

# What a run was asked for, in its folder.
SETTINGS = "settings.json"
SMALLEST_WINDOW = 64
# A document that is hardly longer than the window shows nothing; a corpus needs something to train on besides.
FEWEST_WINDOWS = 4
# The words and numbers of long-context tasks, with the pieces that they are merged from.
TASK_WORDS = 5120


@dataclass(frozen=True)
class QuickstartOptions:
    """What the command line takes. `minutes` are for training; `window` and `tokens` count tokens.

    `tasks`: five of eight windows with questions are about long-context tasks.
    """

    corpus: tuple[Path, ...] = ()
    minutes: float = 7.25
    window: int = WINDOW
    tokens: int = 131_072
    seed: int = 0
    out: Path = Path("quickstart")
    resume: bool = False
    full: bool = False
    tasks: bool = False


@dataclass(frozen=True)
class Scale:
    """What is the same for every quickstart; tests make it smaller."""

    stages: tuple[Stage, ...] = STAGES
    vocabulary: int = 5120
    vocabulary_tokens: int = 1_000_000
    width: int = 128
    layers: int = 3
    heads: int = 4
    head_width: int = 64
    questions: int = 110
    training: TrainOptions = field(
        default_factory=lambda: TrainOptions(
            steps=1,
            optimizer=MuonOptions(),
            schedule=WarmupStableDecay(warmup=20, decay=0.5, final=0.03),
            checkpoint_every=50,
        )
    )

    def with_tasks(self) -> Scale:
        """The same with long-context tasks among the questions, whose words are in the vocabulary."""
        return dataclasses.replace(self, stages=with_tasks(self.stages), vocabulary=self.vocabulary + TASK_WORDS)

    def config(self, vocab_size: int, window: int) -> ModelConfig:
        return ModelConfig(
            vocab_size=vocab_size,
            width=self.width,
            num_layers=self.layers,
            num_heads=self.heads,
            num_kv_heads=max(1, self.heads // 2),
            head_width=self.head_width,
            feedforward_width=3 * self.width,
            max_positions=window,
            qkv_bias=True,
            tied_embeddings=True,
        )


def checked_corpus(options: QuickstartOptions, scale: Scale) -> dict[str, str]:
    """The corpus, if one is given and still needed.

    Raises ValueError for a mistake in the options, a corpus that can't be used, and a folder with another run.
    """
    if options.window < SMALLEST_WINDOW:
        raise ValueError(f"window={options.window}: a question and its fact need at least {SMALLEST_WINDOW} tokens")
    if options.tasks and options.window < TASKS_FROM:
        raise ValueError(
            f"window={options.window}: long-context tasks are taught in windows of at least {TASKS_FROM} tokens; give "
            "a longer window, or leave tasks out"
        )
    if options.tokens < FEWEST_WINDOWS * options.window:
        raise ValueError(
            f"tokens={options.tokens}: the document must be at least {FEWEST_WINDOWS} times as long as the window, "
            f"{FEWEST_WINDOWS * options.window} tokens here"
        )
    if not options.minutes > 0:
        raise ValueError(f"minutes={options.minutes}: training needs more than 0")
    if options.seed < 0:
        raise ValueError(f"seed={options.seed} is negative: give 0 or more")
    check_writable(options.out)
    _check_folder(options)
    stages = [stage.fitted(options.window) for stage in scale.stages]
    needed = training_bytes(
        scale.config(scale.vocabulary, options.window),
        max(stage.tokens for stage in stages),
        optimizer="muon",
        logits_at_once=CHUNK,
    )
    require(needed.total, f"training with a window of {options.window} tokens ({needed.describe()})")
    if not options.corpus or (options.resume and (options.out / texts.FACTS).is_file()):
        return {}
    corpus = texts.read_corpus(options.corpus)
    tokens = sum(map(estimate_tokens, corpus.values()))
    if tokens < FEWEST_WINDOWS * options.window:
        raise ValueError(
            f"the corpus has about {tokens} tokens, fewer than {FEWEST_WINDOWS} windows of {options.window}: "
            "give more text, or a smaller window"
        )
    return corpus


def _check_folder(options: QuickstartOptions) -> None:
    """A new run needs a folder without one; a resumed run must be the same run."""
    path = options.out / SETTINGS
    if not path.is_file():
        return
    if not options.resume:
        raise ValueError(f"{options.out} holds a run already: go on with it (--resume), or give another --out")
    before, now = json.loads(path.read_text(encoding="utf-8")), settings(options)
    for key in now:
        if before.get(key) != now[key]:
            raise ValueError(
                f"{key} was {before.get(key)} in {path} and is {now[key]} now: a resumed run must be the same run; "
                f"give --{key} as before, or another --out"
            )


def settings(options: QuickstartOptions) -> dict[str, Any]:
    """What decides a run's result, as plain data."""
    values = dataclasses.asdict(options) | {"corpus": [str(file) for file in options.corpus]}
    return {key: value for key, value in values.items() if key not in ("out", "resume")}
