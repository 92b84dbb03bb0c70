"""Measure: what a way of remembering is worth, and what it costs. Everything here reads; nothing here trains.

What it is for
    reading.py        reads a document under a cache policy; times every chunk, weighs the cache, pauses for questions
    likelihood.py     perplexity against position, across chunks, without ever holding a text's logits
    strided.py        the same in windows that move on by a stride, each read anew
    probes.py         questions with the tokens of their facts (`TokenSpans`: characters to tokens) and accepted replies
    asking.py         puts questions to forks of a cache, many at a time; the blocks that were read
    recall.py         exact match; recall against depth and length
    attended.py       keys per query, counted in the attention weights themselves
    policies.py       all of it for one policy
    results.py        `PolicyResult`, which survives as JSON; `policy_table`
    extrapolation.py  a n + b n^2 for what was too long to read; always under its own key
    suites/           named measurements that return a `Table`: recall, perplexity, dispersion of attention, and those
                      upon `text/tasks/`: needles, passkeys, key-value pairs, tracing, words, QA, RULER
    battery.py        several suites at several lengths, cell by cell
    battery_tables.py scores and costs of a battery side by side
    report/           HTML pages that hold all they show
    rotary_decay.py   how scores under rotary positions change with distance
    tokenization.py   what tokenizers make of a text: bytes per token, tokens per word, what is lost
    table.py          `Table`, for people and scripts; what can't be measured is shown as not available

Contracts
    - Long work is a generator that yields its progress and, last, its result; the caller prints, saves or stops.
    - Reading seconds are those of the model alone: likelihoods, questions and bytes are taken outside of them.
    - Questions never change the cache they are asked of.
    - Figures and estimates never share a column: what `extrapolate` adds stands under `extrapolated`.

From a document to a report, in a few lines:

    encoding = tokenizer.encode_with_offsets(document.text)
    spans, total = TokenSpans(encoding.offsets), len(encoding.ids)
    probes = {total: document_probes(document, spans, total, per_language=100, window=model.config.max_positions)}
    for step in measure_policy(model, tokenizer, encoding.ids, probes, make_policy("block_memory")):
        ...                                                         # ReadStep, AskStep, and last the PolicyResult
    write_report("report.html", ReportData([step], window=512, document=document.text, spans=spans))

A new suite is one file in `suites/` and one line in `SUITES`:

    @dataclass(frozen=True)
    class SpeedOptions:
        tokens: int = 8192
        full_limit: int = FULL_LIMIT

    def measure(subject, policy, ids, options):         # ids: what `prepare(subject, part, options)` gave
        for step in read_document(subject.model, ids, policy, likelihood=False):
            yield Work("reading", step.tokens, step.total)
        yield Measured({"speed": step.tokens_per_second}, tokens=len(ids), readings=1, ...)

    SPEED = Suite("speed", frozenset({"cache"}), ("speed",), SpeedOptions, parts, prepare, measure, table)
"""

from handscroll.measure.policies import FULL_LIMIT, AskStep, measure_policy
from handscroll.measure.probes import Probe, TokenSpans, document_probes, make_probes
from handscroll.measure.reading import Reading, ReadStep, read_document
from handscroll.measure.recall import Outcome, ask, recall_grid
from handscroll.measure.report import ReportData, write_report
from handscroll.measure.results import PolicyResult, Recall, extrapolate, policy_name, policy_table
from handscroll.measure.suites import SUITES, Subject, Suite, SuiteStep, evaluate
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
    "ReportData",
    "Subject",
    "Suite",
    "SuiteStep",
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
    "write_report",
]
