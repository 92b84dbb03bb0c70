"""A question about a text that was read: answered on a fork of its memory, which stays as it is for the next one.

A model that reads in both directions has no such memory: text and question are read together, anew for each question.
Knows how a question is put to a model. Leaves to `read.py` where the memory comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from handscroll.generation import Sampling
from handscroll.generation import generate as generate_ids
from handscroll.kvcache import breaks_for
from handscroll.kvcache.block_memory import BlockMemoryCache
from handscroll.kvcache.memory_file import Memory
from handscroll.model import Transformer
from handscroll.recipes.generate import Token, as_text, generate, prompt_ids
from handscroll.text import Tokenizer

# Of the blocks that an answer attended to, those that it did most.
PASSAGES = 4


class Passage(NamedTuple):
    """A block of the text that an answer looked at: the place of its first token, and its words."""

    first_token: int
    text: str


def ask(
    model: Transformer,
    tokenizer: Tokenizer,
    memory: Memory,
    question: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[Token | Passage]:
    """The answer, token by token; then, of a memory that looks blocks up, those that it looked at most.

    A model with a chat template is asked in a message, any other continues the question. Checks at once: ValueError for
    an empty question and for impossible options.
    """
    if not question.strip():
        raise ValueError("a question is empty: ask something")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: at least 1")
    sampling = Sampling(temperature, seed)
    is_chat = tokenizer.chat_template is not None
    message = {"role": "user", "content": question}
    ids = prompt_ids(tokenizer, [message]) if is_chat else tokenizer.encode(question)

    def answer() -> Iterator[Token | Passage]:
        fork, looked_at = memory.cache.select([0]), Counter[int]()
        emitted = generate_ids(
            model,
            [ids],
            fork,
            max_new_tokens=max_new_tokens,
            stop_ids=tokenizer.stop_ids,
            sampling=sampling,
            breaks=breaks_for(memory.policy, tokenizer),
        )
        for token in as_text(tokenizer, emitted, tokenizer.stop_ids):
            if isinstance(fork, BlockMemoryCache):
                looked_at.update(fork.attended_blocks(0))
            yield token
        for first, _ in looked_at.most_common(PASSAGES):
            assert isinstance(fork, BlockMemoryCache)
            yield Passage(first, tokenizer.decode(memory.notes["ids"][first : fork.block_end(0, first)].tolist()))

    return answer()


def ask_anew(
    model: Transformer,
    tokenizer: Tokenizer,
    text: str,
    question: str,
    *,
    cache: Mapping[str, Any],
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[Token]:
    """The answer of a model that reads the text and the question in both directions. Checks at once."""
    if not question.strip():
        raise ValueError("a question is empty: ask something")
    asked = question if tokenizer.chat_template is None else [{"role": "user", "content": question}]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    return generate(model, tokenizer, asked, context=text, cache=cache, **options)
