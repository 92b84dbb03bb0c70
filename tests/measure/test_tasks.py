"""Suites of tasks: what is asked of a read text equals asking the model itself, and scores are those of the replies."""

from collections.abc import Iterator, Sequence

import pytest
import torch

from handscroll.generation import Emitted
from handscroll.kvcache import POLICIES, Full, SlidingWindow
from handscroll.measure import asking
from handscroll.measure.asking import prompt_ids
from handscroll.measure.suites import find_suite
from handscroll.measure.suites.record import Measured
from handscroll.measure.suites.suite import Part, Subject
from handscroll.measure.suites.tasks import Material, TaskOptions, measure
from handscroll.model import Cache, Transformer
from handscroll.text import Tokenizer

SMALL = TaskOptions(tokens=600, questions=3, max_new_tokens=5)


def material(subject: Subject, options: TaskOptions = SMALL, suite: str = "kv", lang: str = "en") -> Material:
    written: Material = find_suite(suite).prepare(subject, Part(suite, lang), options)
    return written


def found(subject: Subject, policy: object, read: Material, options: TaskOptions = SMALL) -> Measured:
    *_, last = measure(subject, policy, read, options)  # type: ignore[arg-type]
    assert isinstance(last, Measured)
    return last


@pytest.fixture(scope="module")
def subject(model: Transformer, tokenizer: Tokenizer) -> Subject:
    return Subject(model, tokenizer)


def greedy(model: Transformer, ids: Sequence[int], tokens: int, stop: Sequence[int]) -> list[int]:
    """The slow way: no cache, the whole text again for every token."""
    text = list(ids)
    with torch.inference_mode():
        while len(text) < len(ids) + tokens:
            token = int(model(torch.tensor([text]))[0, -1].argmax())
            if token in stop:
                break
            text.append(token)
    return text[len(ids) :]


@pytest.mark.parametrize("prompt", ["after", "with"])
@pytest.mark.parametrize("opened", [False, True])
def test_full_replies_as_the_model_does_without_any_cache(subject: Subject, prompt: str, opened: bool) -> None:
    options = TaskOptions(tokens=600, questions=3, max_new_tokens=5, prompt=prompt, opened=opened)
    read = material(subject)
    (written,) = read.written
    replies = [row["reply"] for row in found(subject, Full(), read, options).detail["replies"]]
    tokenizer = subject.tokenizer
    for asked, reply in zip(written.sample.asked, replies, strict=True):
        ids = [*written.ids, *prompt_ids(tokenizer, asked.question)]
        if opened:
            before, _, _ = asked.restated.partition(asked.answers[0])
            ids += tokenizer.encode(before.rstrip())
        expected = greedy(subject.model, ids, 5, tokenizer.stop_ids)
        assert reply == tokenizer.decode(expected, skip_special=True).strip()
    assert len(replies) == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_both_prompts_cost_seconds_and_bytes_under_every_policy(subject: Subject, policy: str) -> None:
    read = material(subject)
    for prompt, readings in (("after", 1), ("with", 3)):
        options = TaskOptions(tokens=600, questions=3, max_new_tokens=5, prompt=prompt)
        one = found(subject, POLICIES[policy](), read, options)
        assert (one.asked, one.readings) == (3, readings)
        assert min(one.read_seconds, one.answer_seconds, one.device_bytes) > 0
        assert (one.host_bytes > 0) == (policy in ("block_memory", "quantized", "offloaded"))
        assert 0 < (one.attended or 0) <= one.tokens
        assert one.tokens >= 500


def test_the_context_is_read_once_and_has_the_length_asked_for(subject: Subject) -> None:
    (written,) = material(subject).written
    assert 500 < len(written.ids) <= 600
    assert written.ids == [
        *subject.tokenizer.opening_ids,
        *subject.tokenizer.encode(written.sample.context),
    ]
    one = found(subject, SlidingWindow(), material(subject))
    assert one.tokens == len(written.ids)


def test_replies_are_scored_and_sorted_by_depth(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    read = material(subject, TaskOptions(tokens=600, questions=3))
    (written,) = read.written
    right = [asked.answers[0] for asked in written.sample.asked]
    waiting = [f"It is {right[0]}, I think", "something else", right[2]]

    def scripted(model: Transformer, prompts: Sequence[Sequence[int]], cache: Cache, **_: object) -> Iterator[Emitted]:
        for row in range(len(prompts)):
            ids = [*subject.tokenizer.encode(waiting.pop(0)), subject.tokenizer.stop_ids[0]]
            for place, token in enumerate(ids):
                yield Emitted(row, token, place == len(ids) - 1)

    monkeypatch.setattr(asking, "generate", scripted)
    one = found(subject, Full(), read)
    assert one.figures == {"score": 2 / 3}
    assert [row["score"] for row in one.detail["replies"]] == [1.0, 0.0, 1.0]
    depths = [row["depth"] for row in one.detail["replies"]]
    assert depths == sorted(depths)
    counted = one.detail["by_depth"]
    assert [counted[int(10 * depth)] for depth in depths] == [[1.0, 1], [0.0, 1], [1.0, 1]]
    assert sum(number for _, number in counted) == 3


def test_several_samples_are_different_and_the_seed_decides(subject: Subject) -> None:
    options = TaskOptions(tokens=600, questions=2, samples=2, max_new_tokens=2)
    read = material(subject, options)
    first, second = read.written
    assert first.ids != second.ids
    assert material(subject, options) == read
    assert material(subject, TaskOptions(tokens=600, questions=2, samples=2, seed=1)) != read
    assert found(subject, Full(), read, options).asked == 4


def test_what_cannot_be_written_or_read_says_why(subject: Subject) -> None:
    full = find_suite("ruler").prepare(subject, Part("niah_single_2", "en"), SMALL)
    assert "haystack_files" in found(subject, Full(), full).missing
    short = material(subject, TaskOptions(tokens=10))
    assert found(subject, Full(), short).missing.startswith("not available: ")
    over = TaskOptions(tokens=600, full_limit=500)
    assert found(subject, Full(), material(subject), over).missing == "not read: over full_limit=500"
    assert found(subject, SlidingWindow(), material(subject), over).missing == ""


def test_essays_of_the_user_are_read(subject: Subject, tmp_path: object) -> None:
    path = f"{tmp_path}/essay.txt"
    with open(path, "w", encoding="utf-8") as file:
        file.write("Paul wrote about a garden of words. It was long. " * 30)
    options = TaskOptions(tokens=600, questions=1, haystack_files=(path,))
    read = find_suite("ruler").prepare(subject, Part("niah_single_2", "en"), options)
    assert "garden of words" in read.written[0].sample.context


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prompt": "before"}, "prompt='before'"),
        ({"questions": 0}, "questions=0"),
        ({"languages": ("fr",)}, "languages are"),
        ({"haystack_files": "book.txt"}, r"such as \[book.txt\]"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TaskOptions(**options)  # type: ignore[arg-type]
