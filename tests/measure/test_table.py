"""Tables: the same values for people, terminals and scripts."""

import io
import json

import pytest
from rich.console import Console

from handscroll.measure.table import Table, show

TABLE = Table(
    "Costs", ("policy", "recall", "tokens"), (("full", 0.5, 131072), ("window", None, 8)), frozenset({"recall"})
)


def test_columns_records_and_json() -> None:
    assert TABLE.column("tokens") == [131072, 8]
    assert TABLE.records()[1] == {"policy": "window", "recall": None, "tokens": 8}
    assert json.loads(json.dumps(TABLE.to_json())) == {
        "title": "Costs",
        "columns": ["policy", "recall", "tokens"],
        "rows": [["full", 0.5, 131072], ["window", None, 8]],
    }
    with pytest.raises(ValueError, match=r"'speed' is not in the table 'Costs': it has policy, recall, tokens"):
        TABLE.column("speed")


def test_missing_values_are_said_to_be_missing() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(TABLE.to_rich())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "not available" in shown
    assert "50.0 %" in shown
    assert "131,072" in shown


def test_a_long_name_goes_on_in_the_next_line() -> None:
    console = Console(file=io.StringIO(), width=30)
    console.print(Table("Parameters", ("module", "total"), (("feedforward.experts.projection", 7),)).to_rich())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    cells = [line.split("│")[1].strip() for line in shown.splitlines() if "│" in line]
    assert "".join(cells) == "feedforward.experts.projection"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "not available"), (True, "yes"), (0.123456, "0.123"), (12345.6, "12,346"), (7, "7"), ("a", "a")],
)
def test_values_for_people(value: str | float | None, shown: str) -> None:
    assert show(value) == shown
    assert show(0.1234, percent=True) == "12.3 %"
