"""Stop strings: what is shown doesn't depend on how a text is cut into pieces, and never holds part of one."""

from __future__ import annotations

import random

import pytest

from handscroll.text.stops import StopStrings


def reference(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Character by character: the first place where the text so far ends with a stop string, the longest if several."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def shown(pieces: list[str], stops: list[str]) -> tuple[str, str | None, list[str]]:
    held = StopStrings(stops)
    out = [held.feed(piece) for piece in pieces]
    if held.found is None:
        out.append(held.flush())
    return "".join(out), held.found, out


def test_any_pieces_give_what_single_characters_give() -> None:
    draw = random.Random(3)
    found = 0
    for _ in range(1500):
        text = "".join(draw.choices("ab天c", k=draw.randrange(1, 14)))
        stops = ["".join(draw.choices("ab天c", k=draw.randrange(1, 5))) for _ in range(draw.randrange(1, 4))]
        cuts = sorted(draw.choices(range(len(text) + 1), k=draw.randrange(5)))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        one, whole = shown(list(text), stops), shown(pieces, stops)
        assert one[:2] == reference(text, stops)
        # In one piece several may be complete; the first that is decides.
        assert whole[:2] == one[:2]
        found += whole[1] is not None
    assert 300 < found < 1200


def test_text_is_shown_as_soon_as_it_cannot_become_a_stop_string() -> None:
    *_, out = shown(["The e", "n", "d", "s the en"], ["the end", "end."])
    assert out == ["The ", "", "", "ends ", "the en"]


def test_nothing_comes_after_a_stop_string() -> None:
    held = StopStrings(["x"])
    assert [held.feed("axb"), held.feed("c"), held.flush()] == ["a", "", ""]


def test_an_empty_one_is_refused() -> None:
    with pytest.raises(ValueError, match="a stop string is empty"):
        StopStrings(["a", ""])
