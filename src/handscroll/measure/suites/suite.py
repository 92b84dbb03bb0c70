"""What a suite is: what it needs of whom it measures, its options, and how it runs to a table.

Knows nothing of what any suite measures; those are one file each beside this one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from handscroll.kvcache import Policy, make_policy
from handscroll.measure.policies import AskStep
from handscroll.measure.reading import ReadStep
from handscroll.measure.table import Table
from handscroll.model import Transformer
from handscroll.text import Tokenizer

# What a subject may offer; a remote endpoint generates, and may give log-probabilities, but has no weights or cache.
NEEDS = frozenset({"generate", "logprobs", "weights", "cache"})

PolicyName = str | Mapping[str, Any] | Policy


@dataclass(frozen=True)
class Subject:
    """Whom a suite measures."""

    model: Transformer
    tokenizer: Tokenizer


class SuiteStep(NamedTuple):
    """Progress: what was read or asked under which policy, the `number`th of `total`, counted from 1."""

    policy: str
    number: int
    total: int
    step: ReadStep | AskStep


@dataclass(frozen=True)
class Suite:
    """`options` is a frozen dataclass; `measure` yields progress and, last, the table."""

    needs: frozenset[str]
    options: type[Any]
    measure: Callable[[Subject, Sequence[Policy], Any], Iterator[SuiteStep | Table]]

    def __post_init__(self) -> None:
        assert self.needs <= NEEDS, f"unknown needs {self.needs - NEEDS}"

    def steps(self, subject: Subject, policies: Sequence[PolicyName], **options: Any) -> Iterator[SuiteStep | Table]:
        """Yields progress, and the table as the last item. ValueError for an unknown option, policy, or no policy."""
        known = [option.name for option in dataclasses.fields(self.options)]
        for option in options:
            if option not in known:
                raise ValueError(f"the suite has no option {option!r}: known are {', '.join(known)}")
        if not policies:
            raise ValueError("no cache policy is given: name at least one, such as block_memory")
        return self.measure(subject, [make_policy(policy) for policy in policies], self.options(**options))

    def run(self, subject: Subject, policies: Sequence[PolicyName], **options: Any) -> Table:
        """The table alone."""
        *_, table = self.steps(subject, policies, **options)
        assert isinstance(table, Table)
        return table
