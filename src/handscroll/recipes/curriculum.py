"""The curriculum that teaches a small model to read: from repetition to questions over a full window.

Trained directly on facts and questions, small models stay near chance for a long time. What works is one skill at a
time, each the ground of the next:

- `spans`: random tokens that repeat. Looking up what followed last time (induction) is all there is to learn.
- `mentions`: sentences about a few facts, each stated again and again. What was said of whom must be found by the name.
- `questions`: facts among fillers, then questions in chat form. Names come from small pools, so that near misses
  abound; at the end windows are made of fragments, as a memory that retrieves blocks presents them.
- `tasks`: keys of gates, keys and values, needles, in the place of some of the questions (`task_windows.py`).
- `text`: a text as it is, the last part of it to be predicted. It has windows in the stages of questions, lest the
  model unlearn plain text.

Knows the order of stages and that a step's windows are a pure function of (seed, step, micro). Leaves sentences about
people to `windows.py`, and how many steps there is time for to `plan.py`.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate

from handscroll.recipes.task_windows import TaskWriter
from handscroll.recipes.windows import Excerpts, Writer
from handscroll.text import Tokenizer
from handscroll.training import TokenRow, Window

PERIODS = (4, 16)
# Windows in which nothing can be learnt, such as one that is full before a fact comes again, are drawn again.
ATTEMPTS = 100
# Of a window of text one part in so many is predicted: as many tokens as the others' answers have, lest it drown them.
TEXT_PREDICTED = 4
# Every second window of fragments ends with plain text, up to one part in so many: more would crowd questions out.
LOCAL_SHARE = 4
# Shorter windows have no room for two questions about a task and its context.
TASKS_FROM, TASK_SHARE = 256, 0.625


@dataclass(frozen=True)
class Stage:
    """`steps` steps of `windows` windows of `length` tokens.

    `count`: facts that are mentioned, or questions at most. `relations`: how many occur in a window, one of these
    numbers (none given: all). `texts`: so many of the windows are plain text instead; `tasks`: so many are long-context
    tasks. `verbatim`: the share of facts that are worded as answers are. `families`: from so many surnames, and so many
    given names, a window's people are made (None: from all). `fragments`: only some blocks of a longer context are
    shown.
    """

    name: str
    kind: str
    steps: int
    windows: int
    length: int
    count: int = 0
    relations: tuple[int, ...] = ()
    verbatim: float = 0.0
    families: tuple[int, int] | None = None
    fragments: bool = False
    texts: int = 0
    tasks: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "windows", "length"):
            assert getattr(self, name) >= 1, f"{name} of stage {self.name}"
        assert 0 <= self.texts + self.tasks < self.windows, f"texts and tasks of stage {self.name}"

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.windows * self.length

    def fitted(self, window: int) -> Stage:
        """The stage for a model with this window: longer windows are cut to it, and those of `WINDOW` become it."""
        length = window if self.length == WINDOW else min(self.length, window)
        count = max(1, self.count * length // self.length) if self.count else 0
        windows = max(1, self.tokens // length)
        texts = min(self.texts, windows - 1)
        tasks = min(self.tasks, windows - 1 - texts)
        return replace(self, length=length, windows=windows, count=count, texts=texts, tasks=tasks)


WINDOW = 512
# Mostly facts of one relation in a window: then nothing but names tells them apart.
FEW = (1, 1, 2, 6)
STAGES = (
    Stage("repetition", "spans", 110, 96, 32),
    Stage("rewording", "mentions", 130, 32, 128, 4, relations=(1,), verbatim=0.4),
    Stage("near misses", "mentions", 40, 32, 128, 6, relations=(1,), verbatim=0.2, families=(3, 8)),
    Stage("questions", "questions", 112, 32, 128, 2, relations=FEW, families=(2, 8)),
    Stage("longer questions", "questions", 210, 16, 256, 4, relations=FEW, families=(2, 8), texts=1),
    Stage("full windows", "questions", 160, 8, WINDOW, 8, relations=FEW, families=(2, 8), texts=1),
    Stage("retrieved blocks", "questions", 1000, 8, WINDOW, 8, relations=FEW, families=(2, 8), fragments=True, texts=1),
)


def with_tasks(stages: Sequence[Stage], share: float = TASK_SHARE) -> tuple[Stage, ...]:
    """The stages, of whose mentions, and of whose questions from `TASKS_FROM` tokens on, a share is about tasks."""

    def taught(stage: Stage) -> Stage:
        has_room = stage.kind == "mentions" or (stage.kind == "questions" and stage.length >= TASKS_FROM)
        return replace(stage, tasks=int(share * stage.windows)) if has_room else stage

    return tuple(map(taught, stages))


def first_steps(stages: Sequence[Stage]) -> list[tuple[str, int]]:
    """Each stage's name and the number of its first step (1-based), one stage after the other."""
    ends = accumulate(stage.steps for stage in stages)
    return [(stage.name, end - stage.steps + 1) for stage, end in zip(stages, ends, strict=True)]


class Curriculum:
    """A training source: the windows of every stage, one stage after the other. Every row begins with bos.

    `excerpts`: one per language, what stands between facts; `texts` are what windows of plain text are cut from.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        tokenizer: Tokenizer,
        excerpts: Sequence[Excerpts],
        seed: int,
        texts: Sequence[str] = (),
    ):
        self.stages, self.tokenizer, self.excerpts, self.seed = tuple(stages), tokenizer, tuple(excerpts), seed
        self.texts = tuple(texts)
        self._writers = [Writer(tokenizer, each, seed) for each in excerpts]
        self._ends = list(accumulate(stage.steps for stage in stages))
        self._kinds: dict[str, Callable[[Stage, random.Random], TokenRow]] = {
            "spans": self._spans,
            "mentions": lambda stage, rng: rng.choice(self._writers).mentions(stage, rng),
            "questions": self._questions,
            "text": self._text,
            "tasks": TaskWriter(tokenizer, [each.lang for each in excerpts]).row,
        }
        for stage in stages:
            if stage.kind not in self._kinds:
                raise ValueError(f"stage {stage.name} is of kind {stage.kind!r}; known are {', '.join(self._kinds)}")
            if (stage.texts or stage.kind == "text") and not self.texts:
                raise ValueError(f"stage {stage.name} reads texts, and none is given")

    @property
    def steps(self) -> int:
        return self._ends[-1]

    def identity(self) -> str:
        """Equal exactly for curricula that serve the same windows."""
        contents = [self.tokenizer.fingerprint, *self.texts]
        contents += [piece for each in self.excerpts for piece in (each.lang, *each.pieces)]
        digest = hashlib.blake2b("\0".join(contents).encode(), digest_size=16).hexdigest()
        return repr(([asdict(stage) for stage in self.stages], self.seed, digest))

    def place(self, step: int) -> tuple[Stage, int]:
        """The stage of a step (0-based), and how many steps of that stage come before it."""
        number = bisect_right(self._ends, step)
        stage = self.stages[number]
        return stage, step - (self._ends[number] - stage.steps)

    def first_steps(self) -> list[tuple[str, int]]:
        return first_steps(self.stages)

    def windows(self, step: int, micro: int) -> list[Window]:
        rng = random.Random(f"{self.seed}/{step}/{micro}")
        stage, _ = self.place(step)
        others = ["text"] * stage.texts + ["tasks"] * stage.tasks
        kinds = others + [stage.kind] * (stage.windows - len(others))
        return [[self._row(kind, stage, rng)] for kind in kinds]

    def _row(self, kind: str, stage: Stage, rng: random.Random) -> TokenRow:
        for _ in range(ATTEMPTS):
            row = self._kinds[kind](stage, rng)
            assert row.supervised is not None
            if any(row.supervised[1:]):
                return row
            # Sentences are long where the vocabulary is small or of another language: with one fact fewer they may fit.
            stage = replace(stage, count=max(1, stage.count - 1))
        raise ValueError(f"windows of {stage.length} tokens are too short for stage {stage.name}: give a longer window")

    def _spans(self, stage: Stage, rng: random.Random) -> TokenRow:
        """A span of random tokens, over and over; supervised from its first repetition on."""
        period = min(rng.randint(*PERIODS), stage.length // 2)
        lowest, highest = len(self.tokenizer.special_tokens), self.tokenizer.vocab_size
        span = [rng.randrange(lowest, highest) for _ in range(period)]
        ids = [self.tokenizer.id_of("<|bos|>"), *span * (stage.length // period + 1)][: stage.length]
        return TokenRow(ids, [place > period for place in range(stage.length)])

    def _questions(self, stage: Stage, rng: random.Random) -> TokenRow:
        """Fragments often end as what block memory presents does: with the text that was read last."""
        ending: list[int] = []
        if stage.fragments and self.texts and rng.random() < 0.5:
            ending = self._stretch(rng.randrange(stage.length // LOCAL_SHARE), rng)
        return rng.choice(self._writers).questions(stage, rng, self._writers, ending)

    def _text(self, stage: Stage, rng: random.Random) -> TokenRow:
        """A stretch of text; its last part supervised."""
        row = [self.tokenizer.id_of("<|bos|>"), *self._stretch(stage.length - 1, rng)]
        read = len(row) - max(1, len(row) // TEXT_PREDICTED)
        return TokenRow(row, [place >= read for place in range(len(row))])

    def _stretch(self, length: int, rng: random.Random) -> list[int]:
        """Tokens of one of the texts, which have equal shares."""
        ids = rng.choice(self._text_ids)
        start = rng.randrange(max(1, len(ids) - length + 1))
        return ids[start : start + length]

    @cached_property
    def _text_ids(self) -> list[list[int]]:
        return self.tokenizer.encode_batch(self.texts)
