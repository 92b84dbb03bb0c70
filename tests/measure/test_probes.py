"""Characters to tokens, exactly, in any script; which replies are accepted; which questions can be asked when."""

import dataclasses
import json
import random
import time

import pytest

from handscroll.measure.probes import Probe, TokenSpans, make_probes
from handscroll.text import Tokenizer
from handscroll.text.chronicle import Document, Question, even_questions, write_document

MIXED = "Ada lives in Paris. 王伟住在北京🎉。Le café 👩‍👩‍👧 ferme à 8 h. \u0000𠀀end"


def exactly(tokenizer: Tokenizer, text: str, start: int, end: int) -> None:
    ids, offsets = tokenizer.encode_with_offsets(text)
    first, last = TokenSpans(offsets).span(start, end)
    wanted = set(range(start, end))
    touched = [place for place, (a, b) in enumerate(offsets) if wanted & set(range(a, b))]
    assert (first, last) == (touched[0], touched[-1] + 1)
    assert text[start:end] in tokenizer.decode(ids[first:last])


def test_every_span_of_a_text_with_chinese_and_emoji_is_exact(tokenizer: Tokenizer) -> None:
    for start in range(len(MIXED)):
        for end in range(start + 1, len(MIXED) + 1):
            exactly(tokenizer, MIXED, start, end)


def test_every_fact_of_a_chronicle_stands_in_its_tokens(tokenizer: Tokenizer, document: Document) -> None:
    ids, offsets = tokenizer.encode_with_offsets(document.text)
    spans = TokenSpans(offsets)
    for placed in document.facts:
        first, last = spans.span(placed.fact_start, placed.fact_end)
        assert document.text[placed.fact_start : placed.fact_end] in tokenizer.decode(ids[first:last])


def test_half_a_million_characters_take_about_a_second(tokenizer: Tokenizer) -> None:
    document = write_document(seed=1, size=1000, min_characters=500_000)
    began = time.process_time()
    _, offsets = tokenizer.encode_with_offsets(document.text)
    spans = TokenSpans(offsets)
    probes = make_probes(even_questions(document, 100, random.Random(0)), spans, len(offsets))
    assert len(probes) == 200
    assert time.process_time() - began < 10


def test_a_token_before_the_text_moves_all_spans() -> None:
    offsets = [(0, 2), (2, 5)]
    assert TokenSpans(offsets).span(3, 4) == (1, 2)
    assert TokenSpans(offsets, before=1).span(3, 4) == (2, 3)
    with pytest.raises(ValueError, match="ends at character 5"):
        TokenSpans(offsets).span(5, 9)


def test_answer_and_answer_sentence_are_accepted() -> None:
    asked = Question("q", "en", "Where was Ada Low born?", ["Delft", "Ghent"], "birthplace", "Ada Low", 0, 5)
    (probe,) = make_probes([asked], TokenSpans([(0, 3), (3, 6)]), 4)
    sentences = ("For Ada Low the birthplace was Delft.", "For Ada Low the birthplace was Ghent.")
    assert probe.accepted == ("Delft", "Ghent", *sentences)
    assert (probe.fact_start_token, probe.fact_end_token, probe.depth) == (0, 2, 0.0)
    stranger = Question("q", "en", "What is it worth?", ["9"], "price", "it", 0, 5)
    assert make_probes([stranger], TokenSpans([(0, 6)]), 4)[0].accepted == ("9",)


def test_only_facts_that_were_read_are_asked_for(tokenizer: Tokenizer, document: Document) -> None:
    _, offsets = tokenizer.encode_with_offsets(document.text)
    questions = even_questions(document, 5, random.Random(0))
    half = make_probes(questions, TokenSpans(offsets), len(offsets) // 2)
    assert 0 < len(half) < len(make_probes(questions, TokenSpans(offsets), len(offsets)))
    assert all(0 <= probe.depth < 1 and probe.fact_end_token <= len(offsets) // 2 for probe in half)


def test_json_round_trip(tokenizer: Tokenizer, document: Document) -> None:
    _, offsets = tokenizer.encode_with_offsets(document.text)
    questions = even_questions(document, 2, random.Random(0))
    for probe in make_probes(questions, TokenSpans(offsets), len(offsets), is_extra=True):
        assert Probe.from_json(json.loads(json.dumps(dataclasses.asdict(probe)))) == probe
