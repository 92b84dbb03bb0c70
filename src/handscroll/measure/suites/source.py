"""What suites read by default: a chronicle of the reading split, which no training on chronicles has ever met.

Knows the languages of chronicles. Leaves to others what is done with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from handscroll.text import Tokenizer
from handscroll.text.chronicle import LANGUAGES, Document, write_document


def chronicle(tokenizer: Tokenizer, tokens: int, languages: Sequence[str], seed: int) -> Document:
    """A chronicle of at least `tokens` tokens in this tokenizer's own count."""
    if tokens < 1:
        raise ValueError(f"tokens={tokens}: a suite reads at least 1 token")
    return write_document(seed, tuple(languages), tokens, measure=lambda text: len(tokenizer.encode(text)))


def check_languages(languages: Sequence[str]) -> None:
    """ValueError for a language that isn't known, and for none."""
    if not languages or not set(languages) <= set(LANGUAGES):
        raise ValueError(f"languages are {list(languages)}; give one or more of {', '.join(LANGUAGES)}")
