"""`handscroll chat` through a pipe: what goes where, several lines, Ctrl-C, and how it ends."""

from __future__ import annotations

import io
import math
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import handscroll
from handscroll.cli.chat import next_entry


class Lines:
    """Stands for stdin; an exception among the lines is raised where it stands."""

    def __init__(self, *lines: str | type[BaseException]):
        self.lines = list(lines)

    def isatty(self) -> bool:
        return False

    def readline(self) -> str:
        line = self.lines.pop(0) if self.lines else ""
        if isinstance(line, str):
            return line
        raise line


@pytest.fixture
def talk(run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(lines: list[Any], *options: str) -> Any:
        monkeypatch.setattr(sys, "stdin", Lines(*lines))
        return run("chat", "model", "--max-new-tokens", "8", *options)

    return call


def test_a_script_gets_answers_alone_on_stdout(talk: Any, folder: Path, tmp_path: Path) -> None:
    """Those that `generate` gives to the whole conversation: one token each, which reads back as it was said."""
    (tmp_path / "book.txt").write_text("The lazy dog.\n", encoding="utf-8")
    model, tokenizer = handscroll.load(folder)
    texts = [tokenizer.decode([id_]) for id_ in range(tokenizer.vocab_size)]
    bias = {id_: -math.inf for id_, text in enumerate(texts) if "\ufffd" in text or text.startswith("<|")}
    ran = talk(
        ["Who?\n", "\n", '"""The fox\n', 'jumps."""\n', "Why \\\n", "not?"],
        *(f"--logit-bias={id_}=-inf" for id_ in bias),
        *("--file", "book.txt", "--cache", "full", "--max-new-tokens", "1"),
    )
    assert ran.code == 0, ran.err
    options: dict[str, Any] = {"context": "The lazy dog.\n", "cache": "full", "max_new_tokens": 1, "logit_bias": bias}
    messages: list[dict[str, str]] = []
    for question in ("Who?", "The fox\njumps.", "Why \nnot?"):
        messages.append({"role": "user", "content": question})
        [token] = handscroll.generate(model, tokenizer, messages, **options)
        messages.append({"role": "assistant", "content": token.text})
    assert ran.out == "".join(f"{message['content']}\n" for message in messages[1::2])
    assert "reading: " in ran.err
    assert "cut off after 1 tokens" in ran.err


def test_a_mistake_is_told_and_the_chat_goes_on(talk: Any) -> None:
    ran = talk(["/sats\n", "/file nowhere.txt\n", "/help\n", "/quit\n", "never said\n"])
    assert ran.code == 2
    assert "there is no command /sats; perhaps /stats is meant" in ran.err
    assert "nowhere.txt does not exist" in ran.err
    assert ran.out.startswith("/help ")
    assert "Traceback" not in ran.err
    assert talk(["/help\n"]).code == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real signal, in the middle of an answer; what was said until then is part of the conversation."""
    shown: list[str] = []

    def write(text: str) -> None:
        shown.append(text)
        if len(shown) == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sys.modules["handscroll.cli.chat"], "_write", write)
    before = signal.getsignal(signal.SIGINT)
    ran = talk(
        ["Who?\n", "/stats\n", "Where?\n"], "--max-new-tokens", "1000", "--no-repeat-ngram", "1", "--stop-id", "0"
    )
    assert ran.code == 0, ran.err
    assert "stopped" in ran.err
    assert "tokens read" in "".join(shown)
    assert len(shown) > 7
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from handscroll.model import Transformer

    hidden, calls = Transformer.hidden, [0]

    def twice(self: Transformer, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return hidden(self, *given)

    monkeypatch.setattr(Transformer, "hidden", twice)
    ran = talk(["Who?\n", "Where?\n"])
    assert ran.code == 0, ran.err
    assert "the next message reads the conversation again" in ran.err
    assert len(ran.out.splitlines()) >= 1


def test_ctrl_c_twice_at_the_prompt_leaves(talk: Any) -> None:
    ran = talk([KeyboardInterrupt, "/help\n", KeyboardInterrupt, KeyboardInterrupt, "never said\n"])
    assert ran.code == 0
    assert ran.err.count("Ctrl-C once more leaves") == 2
    assert ran.out.startswith("/help")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", [None]),
        ("one\ntwo\n", ["one", "two", None]),
        ("one \\\ntwo\\\nthree\nfour", ["one \ntwo\nthree", "four", None]),
        ('"""one\n\ntwo"""\nthree\n', ["one\n\ntwo", "three", None]),
        ('"""\none\n"""\n', ["one", None]),
        ('"""one"""\n', ["one", None]),
        ('"""one\n', ["one", None]),
        ("one\\\n", ["one", None]),
    ],
)
def test_entries_of_several_lines(typed: str, expected: list[str | None]) -> None:
    stream = io.StringIO(typed)
    prompts: list[str] = []

    def read_line(prompt: str) -> str | None:
        prompts.append(prompt)
        line = stream.readline()
        return line.rstrip("\n") if line else None

    assert [next_entry(read_line) for _ in expected] == expected
    assert prompts.count("> ") == len(expected)
