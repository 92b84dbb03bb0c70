"""The readable BPE against a worked example and the `tokenizers` library."""

from collections.abc import Generator
from pathlib import Path

import pytest

from handscroll.text import Tokenizer
from handscroll.text.reference import bpe
from handscroll.text.reference.corpus import Corpus, joined_in
from handscroll.text.reference.training import train

BOOKS = Path(__file__).parents[4] / "shared" / "data" / "text"
# The example of the Hugging Face course: https://huggingface.co/learn/llm-course/chapter6/5
WORDS = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}


def finish(steps: Generator[int, None, Tokenizer]) -> Tokenizer:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_worked_example() -> None:
    """u g stands in it 20 times, u n 16 times, h ug 15 times."""
    alphabet = ["b", "g", "h", "n", "p", "s", "u"]
    assert list(bpe.learn(WORDS, alphabet, 10)) == [("u", "g"), ("u", "n"), ("h", "ug")]
    # 12 times p un; then, each 5 times, p ug before hug s, because p is older than hug; 4 times b un.
    assert list(bpe.learn(WORDS, alphabet, 100))[3:] == [("p", "un"), ("p", "ug"), ("hug", "s"), ("b", "un")]


def test_counts_after_joining_are_those_of_counting_anew() -> None:
    corpus = Corpus({"aaaab": 3, "aab": 2, "baa": 1})
    corpus.join(("a", "a"), "aa")
    again = Corpus({("aa", "aa", "b"): 3, ("aa", "b"): 2, ("b", "aa"): 1})
    assert corpus.pairs == again.pairs
    assert +corpus.units == again.units
    assert joined_in("aaa", ("a", "a"), "aa") == ["aa", "a"]


@pytest.mark.parametrize("han", ["merged", "isolated"])
def test_the_library_learns_the_same(han: str, chronicle_texts: list[str]) -> None:
    texts = [chronicle_texts[0][:8000], "aaaa " * 9, "...... ... !!!!"]
    ours = finish(train(texts, 500, han=han, words=["青州"]))  # type: ignore[arg-type]
    assert ours.backend.files() == Tokenizer.train(texts, 500, han=han, words=["青州"]).backend.files()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["en_poe.txt", "zh_sanguoyanyi.txt"])
def test_the_library_learns_the_same_of_a_book(name: str) -> None:
    if not (BOOKS / name).is_file():
        pytest.skip(f"{name} is not in shared/data/text beside the repository")
    text = (BOOKS / name).read_text(encoding="utf-8")[:3000]
    ours = finish(train([text], 400))
    assert ours.backend.files() == Tokenizer.train([text], 400).backend.files()
    assert ours.vocab_size == 400


def test_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no text to learn"):
        finish(train([" "], 300))
