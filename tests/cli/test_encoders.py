"""`handscroll embed` and `handscroll fill`, what `inspect` says of an encoder, and what such a model refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Run = Callable[..., Any]


@pytest.fixture
def encoder(encoder_folder: Path, tmp_path: Path) -> str:
    shutil.copytree(encoder_folder, tmp_path / "encoder")
    return "encoder"


def test_vectors_as_json_and_in_a_file(run: Run, encoder: str) -> None:
    Path("lines.txt").write_text("a cat sleeps.\na cat\n", encoding="utf-8")
    ran = run("embed", encoder, "a cat", "lines.txt", "a " * 30, "--out", "vectors.npy", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [each["text"] for each in found["texts"]][:3] == ["a cat", "a cat sleeps.", "a cat"]
    assert [each["tokens"] for each in found["texts"]] == [4, 6, 4, 24]
    assert [each["truncated"] for each in found["texts"]] == [False, False, False, True]
    assert "cut after 24 tokens: 1 of 4 texts" in ran.err
    vectors_NE = np.load("vectors.npy")
    assert (vectors_NE.dtype, vectors_NE.shape) == (np.float32, (4, 16))
    np.testing.assert_allclose(vectors_NE, [each["embedding"] for each in found["texts"]], atol=1e-6)
    np.testing.assert_allclose(found["cosine"], vectors_NE @ vectors_NE.T, atol=1e-5)
    assert found["cosine"][0][2] == pytest.approx(1, abs=1e-5)
    assert (found["pooling"], found["normalized"]) == ("mean", True)


def test_vectors_for_people(run: Run, encoder: str) -> None:
    ran = run("embed", encoder, "a cat", "a cat sleeps.", "--pooling", "first", "--no-normalize")
    assert (ran.code, ran.err) == (0, "")
    assert "2 texts, 16 numbers each" in ran.out
    assert "2 a cat sleeps." in ran.out
    many = run("embed", encoder, *(f"a cat {'a ' * number}" for number in range(9)))
    assert "The nearest to each" in many.out


def test_masks(run: Run, encoder: str) -> None:
    found = json.loads(run("fill", encoder, "a [MASK] sleeps. [MASK]", "--top", "3", "--json").out)
    assert [len(best) for best in found["masks"]] == [3, 3]
    assert found["filled"] == f"a {found['masks'][0][0]['text']} sleeps. {found['masks'][1][0]['text']}"
    ran = run("fill", encoder, "a [MASK] sleeps.")
    assert "Mask 1" in ran.out
    assert "%" in ran.out


def test_an_encoder_is_inspected(run: Run, encoder: str) -> None:
    found = json.loads(run("inspect", encoder, "--json").out)
    assert found["architecture"]["family"] == "bert"
    assert found["architecture"]["head"] == {"kind": "masked_lm", "activation": "gelu"}
    assert found["commands"] == ["fill", "embed"]
    assert [each["policy"] for each in found["memory"]] == ["none: whole texts at once"]
    assert found["memory"][0]["device_bytes"] == 24 * (3 * 16 + 5 * 16) * 4
    asked = json.loads(run("inspect", encoder, "--cache", "full", "--json").out)
    assert "no cache can continue their text" in asked["memory"][0]["refused"]
    assert json.loads(run("inspect", "model", "--json").out)["commands"][:2] == ["generate", "chat"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("generate", "encoder", "a cat"), "this model continues no text: its mask is bidirectional"),
        (("ask", "encoder", "who?", "--file", "text.txt"), "this model continues no text"),
        (("read", "encoder", "text.txt", "--save", "book"), "this model continues no text"),
        (("fill", "model", "a [MASK]"), "this model fills no masks: its mask is causal"),
        (("fill", "encoder", "a cat"), "the text has no [MASK]: write [MASK] where"),
        (("embed", "encoder", ""), "text 1 is empty"),
        (("embed", "encoder", "a", "--pooling", "max"), "pooling='max' is not known; known: first, mean, last"),
        (("embed", "encoder", "a", "--out", "vectors.txt"), "vectors are written as .npy"),
    ],
    ids=str,
)
def test_mistakes(arguments: tuple[str, ...], says: str, run: Run, encoder: str) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert says in ran.err
