"""What a suite is: what it needs of whom it measures, its options, and how it runs to a table.

Knows nothing of what any suite measures; those are one file each beside this one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_type_hints

from handscroll.kvcache import Full, Policy, describe, make_policy
from handscroll.measure.hidden import tells_hidden
from handscroll.measure.results import policy_name
from handscroll.measure.suites.record import Cell, Measured, Record
from handscroll.measure.table import Table
from handscroll.model import Transformer
from handscroll.model.heads import head_name
from handscroll.model.options import validated
from handscroll.model.slots import VocabularyOptions
from handscroll.text import Tokenizer

# What a subject may offer; a remote endpoint generates, and may give log-probabilities, but has no weights or cache.
# "hidden": it tells tokens that are hidden in a text.
NEEDS = frozenset({"generate", "logprobs", "weights", "cache", "hidden"})
# What continues a text does, and what only looks at one doesn't.
CONTINUING = frozenset({"generate", "logprobs", "cache"})

PolicyName = str | Mapping[str, Any] | Policy


@dataclass(frozen=True)
class Subject:
    """Whom a suite measures."""

    model: Transformer
    tokenizer: Tokenizer

    @property
    def offers(self) -> frozenset[str]:
        config = self.model.config
        found = {"weights"}
        if config.mask != "bidirectional" and isinstance(config.head, VocabularyOptions):
            found |= CONTINUING
        if tells_hidden(config):
            found.add("hidden")
        return frozenset(found)


class Part(NamedTuple):
    """A task of a suite in one language; `lang` is empty where a text mixes them."""

    task: str
    lang: str = ""


class Work(NamedTuple):
    """How far one cell is: so much of `total` has been read, or asked ("reading", "asking")."""

    doing: str
    done: int
    total: int
    unit: str = "tokens"
    tokens_per_second: float | None = None


class SuiteStep(NamedTuple):
    """Progress of one cell."""

    cell: Cell
    work: Work


@dataclass(frozen=True)
class Suite:
    """`options` is a frozen dataclass with `tokens`, the length, and `full_limit`.

    `parts` are the rows of a length; `prepare` makes what every policy of a part reads alike; `measure` yields progress
    and, last, what was found, `figures` among it; `table` shows the records of one length.
    """

    name: str
    needs: frozenset[str]
    figures: tuple[str, ...]
    options: type[Any]
    parts: Callable[[Any], Sequence[Part]]
    prepare: Callable[[Subject, Part, Any], Any]
    measure: Callable[[Subject, Policy, Any, Any], Iterator[Work | Measured]]
    table: Callable[[Sequence[Record]], Table]

    def __post_init__(self) -> None:
        assert self.needs <= NEEDS, f"unknown needs {self.needs - NEEDS}"

    def check(self, subject: Subject) -> None:
        """ValueError for a model that can't be measured by it."""
        if missing := self.needs - subject.offers:
            config = subject.model.config
            lacks, takes = (
                ("tells no hidden tokens", "a BERT, an ERNIE or a GLM, or --suite perplexity or recall")
                if "hidden" in missing
                else ("continues no text", "--suite masked or infilling, or a causal model with head lm")
            )
            raise ValueError(
                f"the suite {self.name} can't measure this model, which {lacks}: its mask is {config.mask} and its "
                f"head {head_name(config.head)}; use {takes}"
            )

    def compared(self, policies: Sequence[Policy]) -> Sequence[Policy]:
        """Those of the policies that make a difference: where nothing is read with a cache, one stands for all."""
        return policies if "cache" in self.needs else (Full(),)

    @property
    def known(self) -> tuple[str, ...]:
        """The names of its options."""
        return tuple(option.name for option in dataclasses.fields(self.options))

    def make_options(self, given: Mapping[str, Any]) -> Any:
        """Its options as they are given, all of them known. ValueError for a value that none of them can have."""
        hints = get_type_hints(self.options)
        return self.options(**{option: validated(value, hints[option], option) for option, value in given.items()})

    def cells(
        self, subject: Subject, part: Part, policies: Sequence[Policy], options: Any
    ) -> Iterator[SuiteStep | Record]:
        """One part under each policy: progress, and after each policy its record."""
        names = [policy_name(describe(policy)) for policy in policies]
        cells = [Cell(self.name, part.task, part.lang, options.tokens, name) for name in names]
        material = self.prepare(subject, part, options)
        for cell, policy in zip(cells, policies, strict=True):
            for step in self.measure(subject, policy, material, options):
                yield Record(cell, step) if isinstance(step, Measured) else SuiteStep(cell, step)

    def steps(self, subject: Subject, policies: Sequence[PolicyName], **options: Any) -> Iterator[SuiteStep | Table]:
        """Yields progress, and the table as the last item.

        ValueError for an unknown option or policy, a mistyped one, no policy, and a model that it can't measure.
        """
        for option in options:
            if option not in self.known:
                raise ValueError(f"the suite has no option {option!r}: known are {', '.join(self.known)}")
        if not policies:
            raise ValueError("no cache policy is given: name at least one, such as block_memory")
        self.check(subject)
        made = self.compared([make_policy(policy) for policy in policies])
        return self._steps(subject, made, self.make_options(options))

    def _steps(self, subject: Subject, policies: Sequence[Policy], options: Any) -> Iterator[SuiteStep | Table]:
        records = []
        for part in self.parts(options):
            for step in self.cells(subject, part, policies, options):
                if isinstance(step, Record):
                    records.append(step)
                else:
                    yield step
        yield self.table(records)

    def run(self, subject: Subject, policies: Sequence[PolicyName], **options: Any) -> Table:
        """The table alone."""
        *_, table = self.steps(subject, policies, **options)
        assert isinstance(table, Table)
        return table


def over_limit(policy: Policy, options: Any) -> str:
    """Why `full` doesn't read a text of this length, or nothing where it does."""
    if isinstance(policy, Full) and options.tokens > options.full_limit:
        return f"not read: over full_limit={options.full_limit:,}"
    return ""
