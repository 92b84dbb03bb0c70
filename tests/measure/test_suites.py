"""Suites: a table for every policy, progress on the way, and mistakes by name."""

from pathlib import Path

import pytest

from handscroll.kvcache import POLICIES
from handscroll.measure.likelihood import PositionCurve
from handscroll.measure.probes import TokenSpans, document_probes
from handscroll.measure.suites import NEEDS, SUITES, Subject, SuiteStep, Work, evaluate
from handscroll.measure.suites.perplexity import perplexity_table
from handscroll.measure.table import Table
from handscroll.model import Transformer
from handscroll.text import Tokenizer
from handscroll.text.chronicle import Document

TINY = {"tokens": 700, "questions": 2, "languages": ("en",), "max_new_tokens": 3}
SMALL = {
    "recall": {"tokens": 5200, "questions": 2, "max_new_tokens": 4},
    "perplexity": {"tokens": 900},
    "dispersion": {"tokens": 700, "questions": 2, "languages": ("en",)},
    "lost_in_the_middle": TINY | {"tokens": 4000},
    "words": TINY | {"tokens": 3000},
    "ruler": TINY | {"tokens": 1200, "questions": 1},
}


@pytest.mark.parametrize("name", [name for name, suite in SUITES.items() if "cache" in suite.needs])
def test_every_suite_measures_every_policy(model: Transformer, tokenizer: Tokenizer, name: str) -> None:
    suite = SUITES[name]
    assert suite.needs <= NEEDS
    *steps, table = suite.steps(Subject(model, tokenizer), list(POLICIES), **SMALL.get(name, TINY))
    assert isinstance(table, Table)
    assert {step.cell.policy for step in steps if isinstance(step, SuiteStep)} == set(POLICIES)
    assert all(isinstance(step, SuiteStep) and isinstance(step.work, Work) for step in steps)
    shown = [str(value) for row in table.rows for value in row]
    assert all(policy in shown or policy in table.columns for policy in POLICIES)


def test_recall_is_asked_in_both_languages_and_full_stops_at_its_limit(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    table = evaluate(model, tokenizer, "recall", ["full", "sliding_window"], full_limit=4700, **SMALL["recall"])
    assert table.column("tokens")[0] == 4700
    assert table.column("tokens")[1] >= 5200  # type: ignore[operator]
    assert table.column("questions") == [4, 4]
    assert table.column("recall zh") == [0.0, 0.0]


def test_perplexity_of_given_text_and_files(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ada lives in Paris. " * 40, encoding="utf-8")
    by_file = evaluate(model, tokenizer, "perplexity", ["full"], files=(str(tmp_path / "a.txt"),))
    by_text = evaluate(model, tokenizer, "perplexity", ["full"], text="Ada lives in Paris. " * 40)
    assert by_file == by_text
    with pytest.raises(ValueError, match="1 tokens"):
        evaluate(model, tokenizer, "perplexity", ["full"], text="a")
    with pytest.raises(ValueError, match="tokens=1"):
        evaluate(model, tokenizer, "perplexity", ["full"], tokens=1)


def test_perplexity_table_aligns_policies_that_read_less() -> None:
    long = PositionCurve((0, 64, 128, 192, 256), (0.0, 0.0, 0.0, 0.0), (63, 64, 64, 64))
    short = PositionCurve((0, 64, 100), (0.0, 0.0), (63, 36))
    table = perplexity_table([("long", long), ("short", short)], [1.5, None])
    assert table.column("positions") == ["0 to 64", "64 to 128", "128 to 256", "all", "bits per byte", "tokens read"]
    assert table.column("short") == [1.0, 1.0, None, 1.0, None, 100]


def test_mistakes_are_named(model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="unknown suite 'iq': known are recall, perplexity"):
        evaluate(model, tokenizer, "iq")
    with pytest.raises(ValueError, match="no option 'token': known are tokens"):
        evaluate(model, tokenizer, "recall", ["full"], token=5)
    with pytest.raises(ValueError, match="unknown cache policy 'sieve'"):
        evaluate(model, tokenizer, "recall", ["sieve"])
    with pytest.raises(ValueError, match="no cache policy"):
        evaluate(model, tokenizer, "recall", [])
    with pytest.raises(ValueError, match="tokens=0"):
        evaluate(model, tokenizer, "recall", ["full"], tokens=0)


def test_probes_of_a_document_are_even_and_fill_the_window(tokenizer: Tokenizer, document: Document) -> None:
    spans = TokenSpans(tokenizer.encode_with_offsets(document.text).offsets)
    probes = document_probes(document, spans, 9000, per_language=3, window=512)
    even = [probe for probe in probes if not probe.is_extra]
    extra = [probe for probe in probes if probe.is_extra]
    assert [probe.lang for probe in even].count("en") == [probe.lang for probe in even].count("zh") == 3
    assert extra
    assert all(probe.fact_start_token >= 9000 - 512 + 64 for probe in extra)
    assert len({probe.id for probe in probes}) == len(probes)
    assert probes == document_probes(document, spans, 9000, per_language=3, window=512)
    with pytest.raises(ValueError, match="first 2 tokens"):
        document_probes(document, spans, 2, per_language=3)
