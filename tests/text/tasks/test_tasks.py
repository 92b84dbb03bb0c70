"""The contract, over every task, its kinds and both languages: size, spans, depth, and one right answer."""

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from handscroll.text import Tokenizer
from handscroll.text.chronicle import estimate_tokens, write_document
from handscroll.text.tasks import RULER, TASKS, Asked, Sample, exact, find_task, score, write_sample
from handscroll.text.tasks.export import answer

# Every task, in each form that it has.
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("passkey", {}),
    ("passkey", {"digits": 8}),
    ("number", {}),
    ("kv", {}),
    ("kv", {"form": "sentence", "keys": "words", "values": "hex"}),
    ("kv", {"keys": "hex", "values": "words"}),
    ("needle", {}),
    ("needle", {"haystack": "chronicle", "keys": 30}),
    ("needle", {"haystack": "needles", "key": "uuids", "value": "uuids"}),
    ("needle", {"haystack": "essay", "value": "words"}),
    ("needle", {"values": 4}),
    ("needle", {"queries": 4, "haystack": "chronicle"}),
    ("variable_tracing", {"chains": 2}),
    ("common_words", {}),
    ("frequent_words", {}),
    ("frequent_words", {"alpha": 3.5}),
    ("chronicle", {"kind": "one_hop"}),
    ("chronicle", {"kind": "two_hops"}),
    ("chronicle", {"kind": "aggregation"}),
    ("chronicle", {"kind": "time_order"}),
    ("chronicle", {"kind": "unanswerable", "split": "train"}),
    ("lost_in_the_middle", {}),
    ("qa", {}),
]
ONE_QUESTION = ("common_words", "frequent_words")
WITHOUT_PLACE = (*ONE_QUESTION, "unanswerable")
TOKENS = 4000
QUESTIONS = 5


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Texts and questions of a user's, in both languages."""
    folder = tmp_path_factory.mktemp("files")
    made: dict[str, dict[str, str]] = {}
    for lang in ("en", "zh"):
        document = write_document(3, [lang], 9000)
        essay, asked = folder / f"{lang}.txt", folder / f"{lang}.json"
        essay.write_text(document.text.replace("\n", "\n\n"), encoding="utf-8")
        paragraphs = []
        for number, paragraph in enumerate(piece for line in document.text.split("\n") for piece in cut(line, lang)):
            answer = f"answer{number}x"
            asking = f"question {number}?" if lang == "en" else f"第{number}个问题？"
            qas = [{"question": asking, "answers": [{"text": answer}, {"text": answer}]}]
            paragraphs.append({"context": f"{answer} {paragraph}", "qas": qas if number % 2 else []})
        asked.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
        made[lang] = {"haystack_files": str(essay), "files": str(asked)}
    return made


def cut(line: str, lang: str) -> list[str]:
    """Paragraphs of three sentences."""
    stop = ". " if lang == "en" else "。"
    sentences = line.split(stop)
    return [stop.join(sentences[start : start + 3]) for start in range(0, len(sentences), 3) if sentences[start]]


@pytest.fixture
def write(files: dict[str, dict[str, str]]) -> Callable[..., Sample]:
    def call(name: str, options: dict[str, Any], lang: str, **others: Any) -> Sample:
        options = dict(options)
        task, chosen = find_task(name, options)
        if getattr(chosen, "haystack", "") == "essay":
            options["haystack_files"] = files[lang]["haystack_files"]
        if task.name == "qa":
            options["files"] = files[lang]["files"]
        return write_sample(name, options=options, lang=lang, **{"tokens": TOKENS, "questions": QUESTIONS} | others)

    return call


def test_every_task_has_a_form_here() -> None:
    assert {name for name, _ in FORMS} == set(TASKS)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(("name", "options"), FORMS, ids=lambda value: value if isinstance(value, str) else str(value))
def test_contract(write: Callable[..., Sample], name: str, options: dict[str, Any], lang: str) -> None:
    sample = write(name, options, lang)
    text = sample.context
    assert sample.lang == lang
    assert 0.95 * TOKENS <= estimate_tokens(text) <= TOKENS
    assert len(sample.asked) == (1 if name in ONE_QUESTION else QUESTIONS)
    assert len({asked.question for asked in sample.asked}) == len(sample.asked)
    assert (sample == write(name, options, lang)) and sample.context != write(name, options, lang, seed=1).context
    placeless = name in WITHOUT_PLACE or options.get("kind") in WITHOUT_PLACE
    for number, asked in enumerate(sample.asked):
        assert asked.answers
        assert all(asked.answers)
        assert score(answer(asked, lang), asked) == exact(answer(asked, lang), asked) == 1
        if lang == "zh":
            assert not asked.question.isascii()
        if placeless:
            assert (asked.spans, asked.depth) == ((), None)
            continue
        assert asked.depth is not None
        # The middle of an even share, but for the length of what stands there and of the opening.
        assert asked.depth == pytest.approx((number + 0.5) / QUESTIONS, abs=0.08)
        if name == "lost_in_the_middle":
            assert asked.depth <= asked.spans[0][0] / len(text) < asked.depth + 1 / 20  # the document begins before
        else:
            assert asked.depth == min(start for start, _ in asked.spans) / len(text)
        assert all(0 <= start < end <= len(text) for start, end in asked.spans)
        if options.get("kind") != "aggregation":
            gold = [text[start:end] for start, end in asked.spans]
            assert all(any(answer in sentence for sentence in gold) for answer in asked.answers)


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(
    ("name", "options"),
    [form for form in FORMS if form[0] in ("passkey", "number", "kv", "needle", "variable_tracing")],
    ids=str,
)
def test_an_answer_stands_nowhere_but_in_its_span(
    write: Callable[..., Sample], name: str, options: dict[str, Any], lang: str
) -> None:
    sample = write(name, options, lang)
    for asked in sample.asked:
        outside, position = [], 0
        for start, end in sorted(asked.spans):
            outside.append(sample.context[position:start])
            position = end
        rest = "".join([*outside, sample.context[position:]])
        assert not any(answer in rest for answer in asked.answers)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_sizes_hold_for_a_tokenizer(write: Callable[..., Sample], merged: Tokenizer, lang: str) -> None:
    calls = 0

    def measure(text: str) -> int:
        nonlocal calls
        calls += len(text) > TOKENS
        return len(merged.encode(text))

    for name, options in FORMS:
        calls = 0
        sample = write(name, options, lang, measure=measure, tokens=6000, questions=1)
        assert 0.95 * 6000 <= len(merged.encode(sample.context)) <= 6000, name
        assert calls <= 6, f"{name}: the whole context was measured {calls} times"


@pytest.mark.parametrize("tokens", [600, 1000, 2500])
def test_short_contexts_never_overshoot(write: Callable[..., Sample], tokens: int) -> None:
    for name, options in FORMS:
        if name in ("common_words", "lost_in_the_middle"):
            continue
        sample = write(name, options, "en", tokens=tokens, questions=1)
        assert 0.8 * tokens <= estimate_tokens(sample.context) <= tokens, name


def test_the_same_text_in_another_process() -> None:
    ask = (
        "from handscroll.text.tasks import TASKS, write_sample\n"
        "from hashlib import sha256\n"
        "samples = [write_sample(name, tokens=3000, lang=lang) for name in sorted(TASKS) if name != 'qa'"
        " for lang in ('en', 'zh')]\n"
        "print(sha256(repr(samples).encode()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", ask], env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": salt},
            capture_output=True, check=True, text=True,
        ).stdout
        for salt in ("1", "2")
    }  # fmt: skip
    assert len(hashes) == 1


def test_too_few_tokens_say_so() -> None:
    with pytest.raises(ValueError, match=r"the context is to have 100 tokens.*ask for a longer context"):
        write_sample("common_words", tokens=100, lang="en")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("needel", {}, "unknown task 'needel': known are passkey.*niah_single_1"),
        ("kv", {"kind": "hex"}, "kv has no option 'kind': known are form, keys, values"),
        ("kv", {"keys": "colours"}, "keys is 'colours'; it must be one of words, numbers, hex, uuids"),
        ("needle", {"values": 0}, "values is 0; it must be a whole number, at least 1"),
        ("needle", {"haystack": "essay"}, "name txt, md or jsonl files in haystack_files"),
        ("niah_single_2", {}, "name txt, md or jsonl files in haystack_files"),
        ("qa_1", {}, "name files in the SQuAD format"),
        ("frequent_words", {"alpha": 1}, "alpha is 1; it must be a number above 1"),
        ("lost_in_the_middle", {"documents": 0}, "documents is 0; it must be a whole number, at least 1"),
        ("lost_in_the_middle", {"split": "test"}, "split is 'test'; it must be one of train, read"),
        ("needle", {"haystack_files": [3]}, r"haystack_files is \(3,\); it must be a list of paths"),
        ("chronicle", {"kind": "three_hops"}, "kind is 'three_hops'; it must be one of one_hop, two_hops"),
    ],
)
def test_mistakes_name_the_way_out(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_sample(name, options=options, tokens=2000, lang="en")


def test_a_language_nobody_writes() -> None:
    with pytest.raises(ValueError, match="language is 'fr'; kv is written in en, zh"):
        write_sample("kv", tokens=2000, lang="fr")


@pytest.mark.parametrize("name", list(RULER))
def test_ruler_writes(write: Callable[..., Sample], name: str) -> None:
    sample = write(name, {}, "en", questions=1)
    assert 0.95 * TOKENS <= estimate_tokens(sample.context) <= TOKENS
    assert len(sample.asked[0].answers) == {
        "niah_multivalue": 4, "niah_multiquery": 4, "vt": 5, "cwe": 10, "fwe": 3,
    }.get(name, 1)  # fmt: skip


def test_a_thousand_pairs() -> None:
    sample = write_sample("kv", tokens=40_000, lang="en", questions=20)
    pairs = json.loads(sample.context.partition("\n")[2])
    assert len(pairs) >= 1000
    assert len(set(pairs.values())) == len(pairs)
    for asked in sample.asked:
        key = asked.question.removeprefix("What is the value of ").removesuffix("?")
        assert asked.answers == (pairs[key],)


def test_single_place_is_anywhere() -> None:
    depths = [write_sample("passkey", tokens=1500, lang="en", seed=seed).asked[0].depth for seed in range(40)]
    assert all(depth is not None for depth in depths)
    quarters = {int(4 * depth) for depth in depths if depth is not None}
    assert quarters == {0, 1, 2, 3}


def test_random_module_is_left_alone() -> None:
    random.seed(5)
    before = random.getstate()
    write_sample("kv", tokens=2000, lang="en")
    assert random.getstate() == before


def test_too_few_paragraphs_say_so(write: Callable[..., Sample]) -> None:
    with pytest.raises(ValueError, match="name more files or ask for a shorter context"):
        write("qa", {}, "en", tokens=50_000)
    with pytest.raises(ValueError, match="ask fewer or name more files"):
        write("qa", {}, "en", questions=5000)


@pytest.mark.parametrize(
    ("name", "questions", "options", "message"),
    [
        ("chronicle", 31, {"kind": "aggregation"}, "31 counts are asked of one text; ask at most 30"),
        ("lost_in_the_middle", 6, {"documents": 5}, "6 questions are asked of 5 documents; ask at most one a document"),
        ("passkey", 100, {"digits": 3}, "100 different keys of 3 digits are asked for; give more digits"),
    ],
)
def test_more_questions_than_there_can_be(name: str, questions: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_sample(name, tokens=20_000, lang="en", questions=questions, options=options)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_as_many_questions_as_there_can_be(lang: str) -> None:
    counts = write_sample("chronicle", tokens=20_000, lang=lang, questions=30, options={"kind": "aggregation"})
    assert len({asked.question for asked in counts.asked}) == 30
    documents = write_sample("lost_in_the_middle", tokens=20_000, lang=lang, questions=30, options={"documents": 60})
    assert len({asked.answers for asked in documents.asked}) == 30


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("name", ["passkey", "number", "kv", "needle", "chronicle"])
def test_a_reply_that_is_begun_says_what_was_asked_for_and_no_answer(name: str, lang: str) -> None:
    for asked in write_sample(name, tokens=1500, lang=lang, questions=4).asked:
        assert asked.opening and asked.restated.startswith(asked.opening)
        assert asked.restated[len(asked.opening) :].lstrip().startswith(asked.answers)


def test_what_has_no_sentence_to_say_is_not_begun() -> None:
    asked = Asked("Which?", ("Bern", "Basel"))
    assert asked.opening == ""
    assert dataclasses.replace(asked, restated="Bernard went to Basel, and to Bern.").opening == "Bernard went to"
