"""Replies scored by hand, and RULER's own two lines of arithmetic beside ours."""

import pytest

from handscroll.text.tasks import Asked, exact, score, string_match_all, string_match_part

REPLIES = ["The numbers are 12 and 34.", "It is ALPHA", "", "one, two; three", "beta-alpha"]
REFERENCES = [["12", "34"], ["alpha", "beta"], ["x"], ["two", "four", "three"], ["Beta", "ALPHA"]]


def test_as_ruler_computes_it() -> None:
    for reply, references in zip(REPLIES, REFERENCES, strict=True):
        found = [reference.lower() in reply.lower() for reference in references]
        assert string_match_all(reply, references) == sum(found) / len(found)
        assert string_match_part(reply, references) == max(found)


@pytest.mark.parametrize(
    ("reply", "answers", "wanted", "points"),
    [
        ("12 and 34", ("12", "34"), "all", 1.0),
        ("only 12", ("12", "34"), "all", 0.5),
        ("密码是１２３４５。", ("12345",), "all", 1.0),
        ("ＡＢＣＤＥ", ("abcde",), "all", 1.0),
        ("文中没有提到他。", ("文中没有提到。", "没有提到"), "any", 1.0),
        ("He was a baker.", ("miller", "tailor"), "any", 0.0),
    ],
)
def test_worked_scores(reply: str, answers: tuple[str, ...], wanted: str, points: float) -> None:
    assert score(reply, Asked("?", answers, wanted)) == points  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "answers", "wanted", "points"),
    [
        (" 71432. ", ("71432",), "all", 1.0),
        ("It is 71432", ("71432",), "all", 0.0),
        ("７１４３２", ("71432",), "all", 1.0),
        ("34, and 12.", ("12", "34"), "all", 1.0),
        ("34、12。", ("12", "34"), "all", 1.0),
        ("12, 34, 56", ("12", "34"), "all", 0.0),
        ("12, 12", ("12", "34"), "all", 0.0),
        ("1, 12", ("12", "1"), "all", 1.0),
        ("12", ("12", "1"), "all", 0.0),
        ("议和与温和", ("议和", "温和"), "all", 1.0),
        ("Two.", ("2", "two"), "any", 1.0),
        ("twenty-two", ("2", "two"), "any", 0.0),
    ],
)
def test_worked_exactness(reply: str, answers: tuple[str, ...], wanted: str, points: float) -> None:
    assert exact(reply, Asked("?", answers, wanted)) == points  # type: ignore[arg-type]
