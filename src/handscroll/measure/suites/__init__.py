"""Suites: named measurements of a model under several ways of remembering. Each returns a `Table`.

A suite says what it `needs` of its subject and takes options of its own. To add one: a file here with a frozen
dataclass of options, a function that yields progress and then a table, and one line in `SUITES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handscroll.measure.suites.perplexity import PERPLEXITY
from handscroll.measure.suites.recall import RECALL
from handscroll.measure.suites.suite import NEEDS, PolicyName, Subject, Suite, SuiteStep
from handscroll.measure.table import Table
from handscroll.model import Transformer
from handscroll.text import Tokenizer

SUITES: dict[str, Suite] = {
    "recall": RECALL,
    "perplexity": PERPLEXITY,
}


def find_suite(name: str) -> Suite:
    """The suite of that name. ValueError lists the known ones."""
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}: known are {', '.join(SUITES)}")
    return SUITES[name]


def evaluate(
    model: Transformer,
    tokenizer: Tokenizer,
    suite: str = "recall",
    policies: Sequence[PolicyName] = ("full", "sliding_window", "block_memory"),
    **options: Any,
) -> Table:
    """Runs one suite to its end. ValueError for an unknown suite, policy or option."""
    return find_suite(suite).run(Subject(model, tokenizer), policies, **options)


__all__ = ["NEEDS", "SUITES", "PolicyName", "Subject", "Suite", "SuiteStep", "evaluate", "find_suite"]
