"""The tables of a battery: scores of every task and length, policy beside policy, and what each policy costs.

Knows records only. A cell that could not be measured says why.
"""

from __future__ import annotations

from collections.abc import Sequence

from handscroll.measure.suites import find_suite
from handscroll.measure.suites.record import COSTS, LONGEST_REASON, Record
from handscroll.measure.table import Table, Value

# The figures that have a table of their own, with its title, and whether they are shares.
FIGURES = {
    "score": ("Score", True),
    "perplexity": ("Perplexity", False),
    "bits_per_byte": ("Bits per byte", False),
    "entropy": ("Entropy of attention, nats", False),
    "gold mass": ("Mass of attention on the gold", True),
}


def score_tables(records: Sequence[Record]) -> list[Table]:
    """One table for each kind of figure: rows are tasks and lengths, columns policies; scores have their mean last."""
    tables = []
    for figure, (title, is_share) in FIGURES.items():
        chosen = [each for each in records if has_figure(each, figure)]
        if not chosen:
            continue
        policies = policies_of(chosen)
        names = list(dict.fromkeys(each.cell.row for each in chosen))
        lengths = sorted({each.cell.length for each in chosen})
        found = {(each.cell.row, each.cell.length, each.cell.policy): each.figure(figure) for each in chosen}
        rows: list[tuple[Value, ...]] = [
            (name, length, *(found.get((name, length, policy)) for policy in policies))
            for name in names
            for length in lengths
        ]
        if figure == "score" and len(names) > 1:
            means = {length: mean_scores(records, length) for length in lengths}
            rows += [("mean of all", length, *(means[length].get(policy) for policy in policies)) for length in lengths]
        columns = ("task", "length", *policies)
        tables.append(Table(title, columns, tuple(rows), frozenset(policies if is_share else ())))
    return tables


def cost_table(records: Sequence[Record]) -> Table:
    """What each policy costs at each length where it was measured: mean seconds, the most keys and bytes."""
    rows: list[tuple[Value, ...]] = []
    for policy in policies_of(records):
        for length in sorted({each.cell.length for each in records}):
            found = [each.found for each in records if (each.cell.policy, each.cell.length) == (policy, length)]
            measured = [each for each in found if not each.missing]
            if not measured:
                continue
            rows.append(
                (
                    policy,
                    length,
                    max(each.tokens for each in measured),
                    max(each.attended or 0 for each in measured),
                    max(each.device_bytes for each in measured) / 1e6,
                    max(each.host_bytes for each in measured) / 1e6,
                    sum(each.read_seconds / each.readings for each in measured) / len(measured),
                    sum(each.answer_seconds / each.readings for each in measured) / len(measured),
                )
            )
    return Table("Cost of a reading and its questions", ("policy", "length", "tokens read", *COSTS), tuple(rows))


def missing_table(records: Sequence[Record]) -> Table | None:
    """Why cells were not measured, one row for each reason that the other tables only hint at; None without any."""
    missing = [each for each in records if len(each.found.missing) > LONGEST_REASON]
    rows = []
    for reason in dict.fromkeys(each.found.missing for each in missing):
        cells = [each.cell for each in missing if each.found.missing == reason]
        tasks = dict.fromkeys(cell.row for cell in cells)
        lengths = sorted({cell.length for cell in cells})
        policies = dict.fromkeys(cell.policy for cell in cells)
        rows.append((reason, ", ".join(tasks), ", ".join(f"{length:,}" for length in lengths), ", ".join(policies)))
    return Table("Not measured", ("reason", "tasks", "lengths", "policies"), tuple(rows)) if rows else None


def battery_tables(records: Sequence[Record]) -> list[Table]:
    """All of them, in the order in which they are shown."""
    missing = missing_table(records)
    return [*score_tables(records), cost_table(records), *([missing] if missing else [])]


def mean_scores(records: Sequence[Record], length: int) -> dict[str, float]:
    """The mean score over the tasks of a length, for each policy that has all that any policy has."""
    here = [each for each in records if each.cell.length == length and has_figure(each, "score")]
    measured = [each for each in here if not each.found.missing]
    tasks = {each.cell.row for each in measured}
    means = {}
    for policy in policies_of(measured):
        scores = {each.cell.row: each.found.figures["score"] for each in measured if each.cell.policy == policy}
        known = [score for score in scores.values() if score is not None]
        if scores.keys() == tasks and len(known) == len(tasks):
            means[policy] = sum(known) / len(known)
    return means


def has_figure(record: Record, figure: str) -> bool:
    """Whether records of its suite have the figure, even if this one is missing."""
    return figure in find_suite(record.cell.suite).figures


def policies_of(records: Sequence[Record]) -> list[str]:
    """The policies' names in the order in which they were given."""
    return list(dict.fromkeys(each.cell.policy for each in records))
