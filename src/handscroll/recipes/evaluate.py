"""A battery of suites as a run: results appear on disk cell by cell, and a run that was stopped goes on by itself.

Knows the files of such a run. Leaves what is measured to `measure/battery.py`, and the page to `measure/report/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from handscroll.kvcache import describe
from handscroll.measure.battery import Battery
from handscroll.measure.battery_tables import battery_tables
from handscroll.measure.report.battery_page import PAGE, write_battery
from handscroll.measure.suites.record import Cell, Record
from handscroll.measure.suites.suite import Subject
from handscroll.recipes.events import Advance, Event, Finished, Said
from handscroll.recipes.folders import load_folder
from handscroll.recipes.output import check_writable
from handscroll.recipes.placement import AUTO
from handscroll.recipes.results import RESULTS, plain, read_results, write_results

RECORDS = "records"


def evaluate(
    model: str, battery: Battery, out: Path | None, *, dtype: str = AUTO, device: str = AUTO
) -> Iterator[Event]:
    """Measures every cell that the folder `out` doesn't hold yet; writes results.json after each, and at last the page.

    ValueError where `out` holds the results of other arguments.
    """
    arguments = arguments_of(model, battery, dtype)
    done: dict[Cell, Record] = {}
    if out is not None:
        check_writable(out)
        done = finished_records(out, arguments)
    cells = battery.cells()
    if done:
        others = ": going on with the others" if len(done) < len(cells) else ""
        yield Said(f"{out} holds {len(done)} of {len(cells)} results{others}")
    records = dict(done)
    if any(cell not in done for cell in cells):
        total, read, inside = sum(map(battery.work, cells)), sum(map(battery.work, done)), 0.0
        for step in battery.run(Subject(*load_folder(model, dtype=dtype, device=device)), done):
            if isinstance(step, Record):
                records[step.cell] = step
                read, inside = read + battery.work(step.cell), 0.0
                if out is not None:
                    write_results(out, arguments, RECORDS, (each.to_json() for each in records.values()))
                continue
            cell, work = step
            # Reading takes nearly all the time of a long text; what has been asked adds nothing.
            if work.doing == "reading":
                inside = work.done / work.total
            note = (
                f"{cell.row} {cell.length:,}, {cell.policy}: {work.doing} {work.done:,} of {work.total:,} {work.unit}"
            )
            yield Advance("evaluating", read + inside * cell.length, total, "tokens", None, note)
        yield Advance("evaluating", total, total, "tokens")
    ordered = [records[cell] for cell in cells]
    if out is not None:
        write_battery(out, ordered, arguments)
        yield Said(f"wrote {out / RESULTS} and {out / PAGE}")
    tables = [table.to_json() for table in battery_tables(ordered)]
    yield Finished(arguments | {"tables": tables, "records": [each.to_json() for each in ordered]})


def arguments_of(model: str, battery: Battery, dtype: str = AUTO) -> dict[str, Any]:
    """What decides the results, as JSON would give it back."""
    given = {
        "model": model,
        "suites": battery.suites,
        "lengths": battery.lengths,
        "policies": [describe(policy) for policy in battery.policies],
        "options": dict(battery.options),
    } | ({} if dtype == AUTO else {"dtype": dtype})
    return plain(given)


def finished_records(out: Path, arguments: Mapping[str, Any]) -> dict[Cell, Record]:
    """What a run with the same arguments has finished; nothing where there was none."""
    records, others = read_results(out, arguments, RECORDS, Record.from_json, "an evaluation")
    if others:
        told = "; ".join(f"{name} {before}, not {now}" for name, before, now in others)
        raise ValueError(f"{out / RESULTS} was made with {told}: give the same arguments to go on, or another --out")
    return {record.cell: record for record in records}
