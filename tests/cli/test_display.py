"""What people see: bars that move on a terminal, a line now and then elsewhere, tables that fit."""

import io

import pytest
from rich.console import Console

from handscroll.cli import display
from handscroll.cli.display import Lines, print_json, print_table, showing
from handscroll.measure import Table
from handscroll.recipes.events import Advance


def drawn(width: int = 80, is_terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, force_terminal=is_terminal, markup=False, highlight=False), file


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(display, "time", clock)
    return clock


def test_lines_are_sparse(clock: Clock) -> None:
    console, file = drawn()
    lines = Lines(console)
    for step in range(50, 101):
        lines.advance(Advance("training", step, 100, "steps", 1234.5, f"loss {step / 100:.2f}"))
        clock.now += 1
    lines.advance(Advance("training", 100, 100, "steps"))
    assert file.getvalue().splitlines() == [
        "training: 60 of 100 steps, 1,234 tokens/s, 0:40 left, loss 0.60",
        "training: 70 of 100 steps, 1,234 tokens/s, 0:30 left, loss 0.70",
        "training: 80 of 100 steps, 1,234 tokens/s, 0:20 left, loss 0.80",
        "training: 90 of 100 steps, 1,234 tokens/s, 0:10 left, loss 0.90",
        "training: 100 of 100 steps, 1,234 tokens/s, took 0:50, loss 1.00",
    ]


def test_long_times_have_hours(clock: Clock) -> None:
    console, file = drawn()
    lines = Lines(console)
    for done in (0, 1):
        lines.advance(Advance("reading", done, 101))
        clock.now += 72
    lines.advance(Advance("reading", 1, 101))
    assert "4:00:00 left" in file.getvalue()


def test_bars_show_speed_and_time_left() -> None:
    console, file = drawn(120, is_terminal=True)
    with showing(console) as bars:
        bars.say("[one] line")
        for done in (10, 90):
            bars.advance(Advance("reading", done, 200, "tokens", 2500.0, "nearly"))
    shown = file.getvalue()
    for part in ("[one] line", "reading", "45%", "2,500 tokens/s", "nearly"):
        assert part in shown


def test_a_table_that_is_too_wide_is_turned() -> None:
    names = tuple(f"a rather long column {number}" for number in range(6))
    table = Table("Ways", ("policy", *names), (("full", *range(1000, 1006)), ("block_memory", *range(6))))
    wide, narrow = drawn(400), drawn(70)
    for console, _ in (wide, narrow):
        print_table(console, table)
    assert any("full" in line and "1,000" in line and "1,005" in line for line in wide[1].getvalue().splitlines())
    lines = narrow[1].getvalue().splitlines()
    assert any("full" in line and "block_memory" in line for line in lines)
    assert any("a rather long column 5" in line and "1,005" in line and "5" in line for line in lines)


def test_a_table_of_many_rows_or_of_rows_with_one_name_stays_upright() -> None:
    names = tuple(f"a rather long column {number}" for number in range(4))
    for rows in ([(str(number), 1, 2, 3) for number in range(5)], [("4", 1, 2, 3), ("4", 4, 5, 6)]):
        console, file = drawn(40)
        print_table(console, Table("Title", names, tuple(rows)))
        lines = file.getvalue().splitlines()
        assert max(map(len, lines)) <= 40
        assert any(line.split()[:1] == ["4"] for line in lines)


def test_a_narrow_table_wraps_at_words() -> None:
    names = ("policy", "tokens read", "attended keys", "seconds reading", "seconds answering")
    rows = tuple((name, 1_048_376, 288, 45.2, 0.0456) for name in ("sliding_window", "block_memory blocks=8") * 3)
    for width in (60, 54):
        console, file = drawn(width)
        print_table(console, Table("Cost", names, rows))
        lines = file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        # Each word and each number is whole; one of the policies goes on in a second line.
        for word in ("sliding_window", "block_memory", "blocks=8", "1,048,376", "0.0456", "answering"):
            assert any(word in line.split() for line in lines), word


def test_json_is_one_line_of_readable_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "天地 " * 200})
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert "天地" in shown


@pytest.mark.parametrize(
    ("environment", "expected"), [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({}, False)]
)
def test_colours_say_nothing_where_none_are_shown(environment: dict[str, str], expected: bool) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=bool(environment), _environ=environment)
    assert display.has_colours(terminal) == expected
