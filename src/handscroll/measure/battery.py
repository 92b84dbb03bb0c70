"""A battery: several suites at several lengths under the same policies, cell by cell, so that it can be gone on with.

Knows which cells there are and which are still to be measured. Leaves measuring to the suites, tables to
`battery_tables.py` and files to its caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from handscroll.kvcache import Policy, describe
from handscroll.measure.results import policy_name
from handscroll.measure.suites import find_suite
from handscroll.measure.suites.record import Cell, Measured, Record
from handscroll.measure.suites.suite import Part, Subject, Suite, SuiteStep, over_limit


@dataclass(frozen=True)
class Battery:
    """What is measured. Each suite takes those of `options` that it knows. ValueError for what none of them knows."""

    suites: tuple[str, ...]
    lengths: tuple[int, ...]
    policies: tuple[Policy, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what in ("suites", "lengths", "policies"):
            given = list(getattr(self, what))
            if not given or any(each in given[:place] for place, each in enumerate(given)):
                raise ValueError(f"{what} are {given}: give at least one, and none of them twice")
        known = sorted({option for name in self.suites for option in find_suite(name).known} - {"tokens"})
        for option in self.options:
            if option not in known:
                raise ValueError(f"no suite has the option {option!r}: known are {', '.join(known)}")
        for length in self.lengths:
            for name in self.suites:
                if not self.parts(name, length):
                    raise ValueError(f"the suite {name!r} has no task in the languages {self.options.get('languages')}")

    def options_of(self, name: str, length: int) -> Any:
        """A suite's own options at a length."""
        suite = find_suite(name)
        given = {option: value for option, value in self.options.items() if option in suite.known}
        return suite.make_options({**given, "tokens": length})

    def parts(self, name: str, length: int) -> Sequence[Part]:
        """The tasks of a suite."""
        return find_suite(name).parts(self.options_of(name, length))

    def cells(self) -> list[Cell]:
        """All cells in the order in which they are measured: short texts first."""
        return [
            Cell(name, part.task, part.lang, length, policy_name(describe(policy)))
            for length in sorted(self.lengths)
            for name in self.suites
            for part in self.parts(name, length)
            for policy in find_suite(name).compared(self.policies)
        ]

    def run(self, subject: Subject, done: Mapping[Cell, Record]) -> Iterator[SuiteStep | Record]:
        """Measures the cells that are not in `done`: progress, and each cell's record as soon as it is finished.

        ValueError for a model that one of the suites can't measure.
        """
        for name in self.suites:
            find_suite(name).check(subject)
        for length in sorted(self.lengths):
            for name in self.suites:
                for part in self.parts(name, length):
                    yield from self._part(subject, find_suite(name), part, self.options_of(name, length), done)

    def _part(
        self, subject: Subject, suite: Suite, part: Part, options: Any, done: Mapping[Cell, Record]
    ) -> Iterator[SuiteStep | Record]:
        waiting = []
        for policy in suite.compared(self.policies):
            cell = Cell(suite.name, part.task, part.lang, options.tokens, policy_name(describe(policy)))
            if cell in done:
                continue
            # A row is of one length: what `full` knows of a shorter text has no place in it.
            if missing := over_limit(policy, options):
                yield Record(cell, Measured(missing=missing))
            else:
                waiting.append(policy)
        if waiting:
            yield from suite.cells(subject, part, waiting, options)

    def work(self, cell: Cell) -> int:
        """Tokens that measuring it reads; none where nothing is read."""
        options = self.options_of(cell.suite, cell.length)
        policies = find_suite(cell.suite).compared(self.policies)
        (policy,) = (each for each in policies if policy_name(describe(each)) == cell.policy)
        return 0 if over_limit(policy, options) else cell.length
