"""A tiny model and tokenizer, shared by the tests of this room: random weights, real shapes."""

import pytest

from handscroll.model import ModelConfig, Transformer
from handscroll.text import Tokenizer
from handscroll.text.chronicle import Document, write_document


@pytest.fixture(scope="session")
def document() -> Document:
    return write_document(seed=5, size=4000)


@pytest.fixture(scope="session")
def tokenizer(document: Document) -> Tokenizer:
    return Tokenizer.train([document.text], 320)


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> Transformer:
    return Transformer(tiny(tokenizer.vocab_size), seed=3)


def tiny(vocab_size: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        width=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_width=8,
        feedforward_width=24,
        max_positions=128,
        qkv_bias=True,
    )
