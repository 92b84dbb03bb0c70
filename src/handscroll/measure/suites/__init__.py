"""Suites: named measurements of a model under several ways of remembering. Each returns a `Table`.

A suite says what it `needs` of its subject and takes options of its own. To add one: a file here with a frozen
dataclass of options, the functions of a `Suite`, and one line in `SUITES`. A suite of tasks is one entry of `TASKED`.
Those that need no cache, `masked` and `infilling`, measure once, whatever the policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handscroll.measure.suites.dispersion import DISPERSION
from handscroll.measure.suites.infilling import INFILLING
from handscroll.measure.suites.masked import MASKED
from handscroll.measure.suites.perplexity import PERPLEXITY
from handscroll.measure.suites.recall import RECALL
from handscroll.measure.suites.suite import NEEDS, Part, PolicyName, Subject, Suite, SuiteStep, Work
from handscroll.measure.suites.tasks import task_suite
from handscroll.measure.table import Table
from handscroll.model import Transformer
from handscroll.text import Tokenizer
from handscroll.text.tasks import RULER
from handscroll.text.tasks.chronicle_qa import KINDS

# The rows of each suite: (task, changed options); those of `ruler` have RULER's names and parameters.
TASKED: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "needle": {"needle": ("needle", {"haystack": "chronicle"})},
    "passkey": {"passkey": ("passkey", {})},
    "number": {"number": ("number", {})},
    "kv": {
        "kv": ("kv", {}),
        "kv_sentences": ("kv", {"form": "sentence", "keys": "words", "values": "numbers"}),
    },
    "multi_needle": {
        "multi_key": ("needle", {"haystack": "chronicle", "keys": 4}),
        "multi_value": ("needle", {"haystack": "chronicle", "values": 4}),
        "multi_query": ("needle", {"haystack": "chronicle", "queries": 4}),
    },
    "tracing": {"tracing": ("variable_tracing", {})},
    "words": {"common_words": ("common_words", {}), "frequent_words": ("frequent_words", {})},
    "qa": {kind: ("chronicle", {"kind": kind}) for kind in KINDS},
    "lost_in_the_middle": {"lost_in_the_middle": ("lost_in_the_middle", {})},
    "ruler": {name: (name, {}) for name in RULER},
}

SUITES: dict[str, Suite] = {suite.name: suite for suite in (RECALL, PERPLEXITY, DISPERSION, MASKED, INFILLING)} | {
    name: task_suite(name, rows) for name, rows in TASKED.items()
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
    """Runs one suite to its end. ValueError for an unknown suite, policy or option, and for a model that can't be
    measured by it."""
    return find_suite(suite).run(Subject(model, tokenizer), policies, **options)


__all__ = ["NEEDS", "SUITES", "Part", "PolicyName", "Subject", "Suite", "SuiteStep", "Work", "evaluate", "find_suite"]
