"""The report: one page that loads nothing, escapes everything, shows every script, and appears whole or not at all."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from handscroll.kvcache import BlockMemory, Full, Policy, SlidingWindow
from handscroll.measure import ReportData, TokenSpans, document_probes, extrapolate, measure_policy, write_report
from handscroll.measure.report import excerpts, page, render_report
from handscroll.measure.report.drawing import VARIABLES, tokens_label
from handscroll.measure.report.page import headline
from handscroll.measure.results import PolicyResult, Recall
from handscroll.model import Transformer
from handscroll.text import Tokenizer
from handscroll.text.chronicle import Document

EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def data(model: Transformer, tokenizer: Tokenizer, document: Document) -> ReportData:
    """A reading of the tiny model, and two questions that it answered as in a story."""
    encoding = tokenizer.encode_with_offsets(document.text)
    spans, total = TokenSpans(encoding.offsets), len(encoding.ids)
    probes = {length: document_probes(document, spans, length, per_language=2, window=128) for length in (1024, total)}

    def result(policy: Policy, limit: int | None = None) -> PolicyResult:
        options = {"limit": limit, "max_new_tokens": 3, "chunk": 512}
        *_, last = measure_policy(model, tokenizer, encoding.ids, probes, policy, **options)  # type: ignore[arg-type]
        assert isinstance(last, PolicyResult)
        return last

    full, memory = extrapolate(result(Full(), 1024), total), result(BlockMemory())
    outcomes = list(memory.outcomes)
    even = [place for place, each in enumerate(outcomes) if each.probe.length == total and not each.probe.is_extra]
    right = outcomes[even[0]]
    block = right.probe.fact_start_token // 8 * 8
    outcomes[even[0]] = dataclasses.replace(right, reply=right.probe.accepted[-1], correct=True, blocks=(8, block))
    outcomes[even[1]] = dataclasses.replace(outcomes[even[1]], reply=EVIL, correct=False)
    memory = dataclasses.replace(memory, outcomes=tuple(outcomes), recall_beyond_window=Recall(3, 4))
    return ReportData(
        [full, result(SlidingWindow()), memory],
        window=128,
        document=document.text,
        spans=spans,
        losses=[(step, 9.0 / step) for step in range(1, 900)],
        stages=[("repeats", 1), (f"数 $x^{{ {EVIL}", 300), ("questions", 310)],
        settings={"seed": 7, "note": EVIL, "path": Path("a"), "语言": "zh"},
        title=f"Title {EVIL}",
    )


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return render_report(data)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_loads_nothing(html: str) -> None:
    tags = Tags()
    tags.feed(html)
    names = {tag for tag, _ in tags.found}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "audio", "video", "base", "form"})
    for tag, attributes in tags.found:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value is not None
                assert value.startswith("#"), (tag, name, value)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html


def test_what_comes_from_users_texts_and_models_is_escaped(html: str) -> None:
    assert EVIL not in html
    assert "<script" not in html
    # Title (twice), the stage's name in the figure, a reply, the settings.
    assert html.count("&lt;script&gt;") == 5


def test_every_section_is_there(html: str) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert titles == [
        "Ways of remembering",
        "Recall against depth and length",
        "Perplexity against position",
        "What it costs",
        "Some of the questions",
        "Training",
        "Settings",
    ]
    assert html.count("<svg") == 6
    assert "not available" in html
    assert "full, extrapolated" in html
    assert "语言" in html


def test_figures_are_well_formed_and_take_the_colours_of_the_page(html: str) -> None:
    ids: list[str] = []
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        root = ElementTree.fromstring(svg)
        ids += [value for element in root.iter() for name, value in element.attrib.items() if name == "id"]
        assert "<text" in svg
        assert "var(--ink)" in svg or "var(--muted)" in svg
    assert len(ids) == len(set(ids))
    assert not any(colour in html for colour in VARIABLES)
    css = (Path(page.__file__).parent / "page.css").read_text(encoding="utf-8")
    for variable in VARIABLES.values():
        assert len(re.findall(rf"{variable}:", css)) == 2, f"{variable} is set for light and for dark"


def test_right_and_wrong_questions_with_what_was_read(data: ReportData, html: str, document: Document) -> None:
    memory = data.results[2]
    shown = excerpts.choose(memory, data.results[:2], document.text, data.spans)
    assert [each.outcome.correct for each in shown] == [False, False, False, True]
    assert all(name == "sliding_window" for each in shown for name, _, _ in each.others)
    right = shown[-1]
    (passage,) = right.passages
    fact = "".join(piece.text for piece in passage.pieces if piece.in_fact)
    assert any(fact == document.text[placed.fact_start : placed.fact_end] for placed in document.facts)
    block = "".join(piece.text for piece in passage.pieces if piece.in_block)
    assert data.spans is not None
    start, end = data.spans.place(*passage.tokens)
    assert block == document.text[start:end]
    assert html.count("✓ right") >= 1
    assert html.count("✗ wrong") >= 3


def test_the_headline_says_what_was_found(data: ReportData) -> None:
    memory, tokens = data.results[2], data.results[2].tokens
    assert headline(data) == (
        f"A model trained on windows of 128 tokens read {tokens:,} tokens ({len(data.document):,} characters), "
        f"{tokens / 128:,.0f} times its window; with block_memory it answered {100 * memory.recall.right / 4:.1f} % of "
        "4 questions about them, with sliding_window 0.0 %."
    )


def test_a_bare_result_is_enough(data: ReportData) -> None:
    bare = dataclasses.replace(data.results[1], outcomes=(), likelihood=None, recall=Recall(0, 0))
    html = render_report(ReportData([bare], window=128))
    assert re.findall(r"<h2>(.*?)</h2>", html) == ["Ways of remembering", "What it costs"]
    with pytest.raises(ValueError, match="nothing to report"):
        render_report(ReportData([], window=128))


def test_the_file_appears_whole_or_not_at_all(
    data: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run" / "report.html"
    monkeypatch.setattr(page, "render_report", lambda _: "old")
    write_report(path, data)
    monkeypatch.setattr(page, "render_report", lambda _: "new \ud800")  # can't be written as UTF-8
    with pytest.raises(UnicodeEncodeError):
        write_report(path, data)
    assert path.read_text(encoding="utf-8") == "old"
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("tokens", "label"),
    [(512, "512"), (2048, "2k"), (8192, "8k"), (131_072, "131k"), (2**20, "1M"), (1500, "1.5k"), (140_000, "140k")],
)
def test_positions_are_labelled_as_people_call_them(tokens: int, label: str) -> None:
    assert tokens_label(tokens) == label
