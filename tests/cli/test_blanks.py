"""Models that read in both directions on the command line: blanks filled, texts continued, questions asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import handscroll
from handscroll.model import ModelConfig, Transformer
from handscroll.model.position import PositionOptions, Rope2dOptions, RopeOptions
from handscroll.text import Tokenizer
from handscroll.training import GLM

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _models(run: Run) -> None:
    """`glm` and `prefix`, untrained."""
    text = Path("text.txt").read_text(encoding="utf-8")
    tokenizer = Tokenizer.train([text], 300, roles=GLM.needs.roles)
    positions: dict[str, PositionOptions] = {"glm": Rope2dOptions(), "prefix": RopeOptions()}
    for name, position in positions.items():
        config = ModelConfig(tokenizer.vocab_size, 16, 1, 2, 1, 8, 32, 128, position=position, mask="prefix")
        handscroll.save(Transformer(config, seed=1), tokenizer, name)


def test_blanks_are_filled(run: Run) -> None:
    ran = run("fill", "glm", "The [MASK] fox [MASK].", "--max-new-tokens", "3", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    texts = [each["text"] for each in found["blanks"]]
    assert found["filled"] == f"The{texts[0]} fox{texts[1]}."
    shown = run("fill", "glm", "The [MASK] fox [MASK].", "--max-new-tokens", "3")
    assert shown.out.startswith(found["filled"])
    assert ("blank 1 was cut off after 3 tokens" in shown.out) is not found["blanks"][0]["is_whole"]
    beams = json.loads(run("fill", "glm", "The [MASK].", "--beams", "2", "--max-new-tokens", "2", "--json").out)
    assert len(beams["blanks"]) == 1


@pytest.mark.parametrize("model", ["glm", "prefix"])
def test_they_continue_texts_and_answer(model: str, run: Run) -> None:
    told = json.loads(run("generate", model, "The quick", "--max-new-tokens", "3", "--json").out)
    assert told["cache"] == {"policy": "full"}
    assert 1 <= len(told["tokens"]) <= 3
    asked = run("ask", model, "Who jumps?", "--file", "text.txt", "--max-new-tokens", "3", "--json")
    assert asked.code == 0, asked.err
    assert json.loads(asked.out)["cache"] == {"policy": "full"}


def test_what_they_need_is_told(run: Run) -> None:
    found = json.loads(run("inspect", "prefix", "--json").out)
    (full,) = found["memory"]
    assert (full["policy"], full["device_bytes"]) == ("full", 2 * 128 * 8 * 4)
    refused = json.loads(run("inspect", "prefix", "--cache", "block_memory", "--json").out)["memory"]
    assert "both directions (mask=prefix)" in refused[0]["refused"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fill", "glm", "The fox"), "the text has no blank: write <|mask|> or [MASK]"),
        (("fill", "glm", "[MASK]", "--top", "3"), "--top 3 says nothing to this model: it is a GLM"),
        (("fill", "prefix", "[MASK]", "--beams", "3"), "--beams 3 says nothing to this model: it is a masked LM"),
        (("fill", "prefix", "[MASK]"), "this model fills no masks: its mask is prefix and its head lm;"),
        (("generate", "prefix", "The", "--cache", "block_memory"), "both directions (mask=prefix)"),
        (("read", "prefix", "text.txt", "--save", "book"), "use handscroll ask with --file"),
        (("eval", "glm", "--tokens", "300", "--policies", "full"), "reads no text from left to right"),
    ],
    ids=str,
)
def test_mistakes(arguments: tuple[str, ...], says: str, run: Run) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert says in ran.err
