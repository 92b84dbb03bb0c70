"""Batteries: every cell once, tables that compare like with like, figures that are well-formed, records as JSON."""

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from handscroll.kvcache import BlockMemory, Full, SlidingWindow
from handscroll.measure.battery import Battery
from handscroll.measure.battery_tables import cost_table, mean_scores, missing_table, score_tables
from handscroll.measure.report.battery_page import battery_figures, heat_maps, quality_curves, write_battery
from handscroll.measure.suites import Subject
from handscroll.measure.suites.record import Cell, Measured, Record
from handscroll.model import Transformer
from handscroll.text import Tokenizer

OPTIONS = {"languages": ("en",), "questions": 2, "max_new_tokens": 2, "full_limit": 700}


@pytest.fixture(scope="module")
def battery() -> Battery:
    return Battery(("number", "perplexity", "dispersion"), (1000, 600), (Full(), SlidingWindow(window=64)), OPTIONS)


@pytest.fixture(scope="module")
def records(battery: Battery, model: Transformer, tokenizer: Tokenizer) -> list[Record]:
    steps = battery.run(Subject(model, tokenizer), {})
    return [step for step in steps if isinstance(step, Record)]


def test_every_cell_is_measured_once(battery: Battery, records: list[Record]) -> None:
    assert {record.cell for record in records} == set(battery.cells())
    assert len(records) == len(battery.cells()) == 2 * 3 * 2
    assert [cell.length for cell in battery.cells()] == [600] * 6 + [1000] * 6


def test_what_is_done_is_not_measured_again(
    battery: Battery, records: list[Record], model: Transformer, tokenizer: Tokenizer
) -> None:
    done = {record.cell: record for record in records if record.cell.suite != "perplexity"}
    steps = battery.run(Subject(model, tokenizer), done)
    again = [step for step in steps if isinstance(step, Record)]
    assert {record.cell for record in again} == {cell for cell in battery.cells() if cell.suite == "perplexity"}


def test_full_over_its_limit_is_not_read(battery: Battery, records: list[Record]) -> None:
    for record in records:
        is_over = record.cell.policy == "full" and record.cell.length == 1000
        assert (record.found.missing == "not read: over full_limit=700") == is_over
        assert battery.work(record.cell) == (0 if is_over else record.cell.length)
        if not is_over:
            assert record.found.read_seconds > 0
            assert record.found.device_bytes > 0
            assert record.found.attended


def test_records_survive_json(records: list[Record]) -> None:
    assert [Record.from_json(json.loads(json.dumps(record.to_json()))) for record in records] == records


def test_tables_have_a_row_for_each_task_and_length(records: list[Record]) -> None:
    score, perplexity, bits, entropy, mass = score_tables(records)
    assert score.columns == ("task", "length", "full", "sliding_window window=64")
    assert [row[:2] for row in score.rows] == [("number en", 600), ("number en", 1000)]
    assert perplexity.column("full")[1] == "not read: over full_limit=700"
    assert all(isinstance(value, float) for value in perplexity.column("sliding_window window=64"))
    assert bits.title == "Bits per byte"
    assert entropy.column("task") == ["dispersion en", "dispersion en"]
    assert mass.title == "Mass of attention on the gold"
    cost = cost_table(records)
    assert cost.column("policy") == ["full", *["sliding_window window=64"] * 2]
    assert cost.column("length") == [600, 600, 1000]
    assert None not in [value for row in cost.rows for value in row]
    assert missing_table(records) is None


def record(task: str, length: int, policy: str, score: float | None, size: int = 100, **detail: object) -> Record:
    found = Measured({"score": score}, length, 2, 1, 1.0, 0.5, size, 20, 7, dict(detail))
    if score is None:
        found = Measured(missing="not read")
    return Record(Cell("qa", task, "en", length, policy), found)


def test_means_are_over_the_same_tasks_only() -> None:
    some = [
        record("a", 10, "full", 1.0),
        record("b", 10, "full", 0.5),
        record("a", 10, "window", 1.0),
        record("b", 10, "window", None),
        record("c", 10, "full", None),
        record("c", 10, "window", None),
    ]
    assert mean_scores(some, 10) == {"full": 0.75}
    (table,) = score_tables(some)
    assert table.rows[-1] == ("mean of all", 10, 0.75, None)
    assert table.rows[1] == ("qa: b en", 10, 0.5, "not read")


def test_long_reasons_stand_in_a_table_of_their_own() -> None:
    reason = "not available: the haystack 'essay' is made of texts of yours, and none is given"
    some = [
        Record(Cell("ruler", task, "en", length, policy), Measured(missing=reason))
        for task in ("a", "b")
        for length in (10, 2000)
        for policy in ("full", "window")
    ]
    assert score_tables(some)[0].rows[0] == ("ruler: a en", 10, "not available", "not available")
    table = missing_table(some)
    assert table is not None
    assert table.rows == ((reason, "ruler: a en, ruler: b en", "10, 2,000", "full, window"),)


def test_maps_and_curves_hold_what_the_records_say() -> None:
    by_depth = [[1.0, 1.0], [0.0, 2.0], *[[0.0, 0.0]] * 8]
    some = [
        record("a", 10, "full", 0.5, 100, by_depth=by_depth),
        record("a", 20, "full", 0.25, 200, by_depth=by_depth),
        record("b", 10, "full", 0.75, 300),
        record("b", 20, "full", None),
    ]
    (found,) = heat_maps(some)
    assert (found.title, found.lengths) == ("full", (10, 20))
    assert found.columns[0] == (1.0, 0.0, *[None] * 8, pytest.approx(1 / 3))
    (curve,) = quality_curves([some[0], some[2], some[1]])
    assert curve.points == ((10, 320, 0.625), (20, 220, 0.25))


def test_a_page_and_its_figures_are_written(records: list[Record], tmp_path: Path) -> None:
    names = write_battery(tmp_path / "out", records, {"model": "<b>m</b>"})
    assert names == ["index.html", "heat-number.svg", "quality-number.svg"]
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;m&lt;/b&gt;" in page
    assert "not read: over full_limit=700" in page
    assert "<script" not in page
    for name in names[1:]:
        svg = (tmp_path / "out" / name).read_text(encoding="utf-8")
        ElementTree.fromstring(svg)
        assert "var(" not in svg
        assert "#6d665c" in svg
    assert set(battery_figures(records)) == set(names[1:])


def test_each_suite_has_its_curve_and_several_have_one_together() -> None:
    some = [record("a", 10, "full", 1.0), record("a", 20, "full", 0.5)]
    other = [dataclasses.replace(each, cell=each.cell._replace(suite="number", task="number")) for each in some]
    assert set(battery_figures(some)) == {"quality-qa.svg"}
    assert set(battery_figures(some + other)) == {"quality-qa.svg", "quality-number.svg", "quality-all.svg"}


def test_policies_with_an_archive_hold_host_bytes(model: Transformer, tokenizer: Tokenizer) -> None:
    battery = Battery(("passkey",), (600,), (BlockMemory(),), OPTIONS)
    found = [step for step in battery.run(Subject(model, tokenizer), {}) if isinstance(step, Record)]
    assert [each.found.host_bytes > 0 for each in found] == [True]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((("number", "number"), (5,), (Full(),)), "suites are"),
        ((("number",), (), (Full(),)), "lengths are"),
        ((("number",), (5,), (Full(), Full())), "policies are"),
        ((("iq",), (5,), (Full(),)), "unknown suite 'iq'"),
        ((("number",), (5,), (Full(),), {"files": ()}), "no suite has the option 'files'"),
        ((("number",), (5,), (Full(),), {"languages": ("fr",)}), "languages are"),
        ((("number",), (0,), (Full(),)), "tokens=0"),
    ],
)
def test_mistakes_are_named(given: tuple[object, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Battery(*given)  # type: ignore[arg-type]
