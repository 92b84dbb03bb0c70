"""Tokenizers that the tests of this room share, trained once on a short chronicle."""

from random import Random

import pytest

from handscroll.text import Tokenizer
from handscroll.text.chronicle import answer_sentence, ask, write_document


@pytest.fixture(scope="session")
def chronicle_texts() -> list[str]:
    """A chronicle of the train split, with its questions and answers."""
    document = write_document(1, ("en", "zh"), 60_000, split="train")
    rng = Random(0)
    asked = [f"{ask(placed, rng).question} {answer_sentence(placed.fact)}" for placed in document.facts]
    return [document.text, "\n".join(asked)]


@pytest.fixture(scope="session")
def merged(chronicle_texts: list[str]) -> Tokenizer:
    return Tokenizer.train(chronicle_texts, 2048)


@pytest.fixture(scope="session")
def isolated(chronicle_texts: list[str]) -> Tokenizer:
    return Tokenizer.train(chronicle_texts, 3072, han="isolated")


@pytest.fixture(scope="session")
def isolated_2048(chronicle_texts: list[str]) -> Tokenizer:
    return Tokenizer.train(chronicle_texts, 2048, han="isolated")


@pytest.fixture(scope="session")
def isolated_4096(chronicle_texts: list[str]) -> Tokenizer:
    """A short chronicle has too few words for so large a vocabulary."""
    more = write_document(2, ("en", "zh"), 400_000, split="train").text
    tokenizer = Tokenizer.train([*chronicle_texts, more], 4096, han="isolated")
    assert tokenizer.vocab_size == 4096
    return tokenizer
