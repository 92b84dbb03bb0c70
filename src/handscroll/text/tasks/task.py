"""What a task is: contexts of a wanted length, and questions whose right answers are known.

Knows the contract only. Which tasks there are is in `tasks/__init__.py`; who asks the questions, of which model, is
left to others, and so is the tokenizer: a task measures text with what its caller gives.
"""

import random
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Wanted = Literal["all", "any"]


@dataclass(frozen=True)
class Asked:
    """One question about a context. `answers`: every one is wanted (`all`), or any one (`any`)."""

    question: str
    answers: tuple[str, ...]
    wanted: Wanted = "all"
    spans: tuple[tuple[int, int], ...] = ()  # characters of the context where the gold stands
    depth: float | None = None  # where the (first) gold begins, 0 to 1; None where that has no meaning
    restated: str = ""  # the answers in sentences that say what was asked for; empty where a task has none

    @property
    def opening(self) -> str:
        """What the restated answers say before the first of them: words that a reply may begin with."""
        places = [self.restated.rindex(answer) for answer in self.answers if answer in self.restated]
        return self.restated[: min(places, default=0)].rstrip()


@dataclass(frozen=True)
class Sample:
    """A context and the questions about it, which are asked independently of each other."""

    context: str
    asked: tuple[Asked, ...]
    lang: str


class Measure(Protocol):
    """Tokens of a text, by the caller's tokenizer. It may be slow."""

    def __call__(self, text: str, /) -> int: ...


class Write(Protocol):
    """Writes one sample: a context of at most `tokens` tokens, and at least 95 % of them.

    Where the pieces that a context is made of are larger than the missing 5 %, it is as long as whole pieces allow.
    `questions` is how many are asked; a task that can ask only one thing of a context asks that. Raises ValueError
    when so few tokens can't hold what is asked for.
    """

    def __call__(
        self, rng: random.Random, tokens: int, lang: str, measure: Measure, questions: int, options: Any, /
    ) -> Sample: ...


@dataclass(frozen=True)
class Task:
    """A task by name. `options` is the frozen dataclass of its parameters, all of which have defaults."""

    name: str
    options: type
    write: Write
    languages: tuple[str, ...] = ("en", "zh")
