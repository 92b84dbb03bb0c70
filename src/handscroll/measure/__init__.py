"""Measure: what a way of remembering is worth, and what it costs."""

from handscroll.measure.policies import (
    FULL_LIMIT,
    AskStep,
    PolicyResult,
    Recall,
    extrapolate,
    measure_policy,
    policy_name,
    policy_table,
)
from handscroll.measure.probes import Probe, TokenSpans, document_probes, make_probes
from handscroll.measure.reading import Reading, ReadStep, read_document
from handscroll.measure.recall import Outcome, ask, recall_grid
from handscroll.measure.suites import SUITES, Subject, Suite, evaluate
from handscroll.measure.table import Table

__all__ = [
    "FULL_LIMIT",
    "SUITES",
    "AskStep",
    "Outcome",
    "PolicyResult",
    "Probe",
    "ReadStep",
    "Reading",
    "Recall",
    "Subject",
    "Suite",
    "Table",
    "TokenSpans",
    "ask",
    "document_probes",
    "evaluate",
    "extrapolate",
    "make_probes",
    "measure_policy",
    "policy_name",
    "policy_table",
    "read_document",
    "recall_grid",
]
