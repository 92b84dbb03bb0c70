"""Putting questions to what was read: forks of a cache reply to chat prompts, many at a time, by greedy decoding.

Knows chat prompts, how many forks fit together, and which archived blocks were read on the way to a reply. Leaves to
others which replies are right (`recall.py`, `suites/tasks.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from handscroll.generation import generate
from handscroll.kvcache.block_memory import BlockMemoryCache, Sizes
from handscroll.model import Bytes, Cache, LayerMemory, Transformer
from handscroll.text import Tokenizer, chat_tokens

# A fork copies what its cache holds on the device: with a long full cache only a few fit at a time.
LARGEST_FORKS = 2**30


class Reply(NamedTuple):
    """What was replied, and how many tokens the text, the prompt and the reply have together.

    `blocks` counts how often each archived block, given by its first token, was attended; `sizes` are those of
    block_memory, None under policies that archive no blocks.
    """

    text: str
    end: int
    blocks: Counter[int]
    sizes: Sizes | None


def prompt_ids(tokenizer: Tokenizer, question: str, opening: str = "") -> list[int]:
    """The question as a user's turn, up to where the reply begins, and what it begins with."""
    turn = chat_tokens(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True)
    return [*turn.ids, *tokenizer.encode(opening)]


def replies(
    model: Transformer,
    tokenizer: Tokenizer,
    cache: Cache,
    questions: Sequence[str],
    *,
    openings: Sequence[str] | None = None,
    batch: int = 32,
    max_new_tokens: int = 48,
) -> Iterator[Reply]:
    """Puts each question to a fork of `cache` (one row, left as it is), up to `batch` at a time, in order.

    openings: what each reply begins with; what is replied goes on from there.
    """
    if batch < 1:
        raise ValueError(f"batch={batch}: at least 1 question is asked at a time")
    assert len(cache.lengths) == 1, f"questions are asked of one text, not of {len(cache.lengths)} rows"
    batch = max(1, min(batch, LARGEST_FORKS // max(1, cache.bytes().device)))
    openings = openings or [""] * len(questions)
    prompts = [prompt_ids(tokenizer, *asked) for asked in zip(questions, openings, strict=True)]
    for first in range(0, len(prompts), batch):
        yield from _together(model, tokenizer, cache, prompts[first : first + batch], max_new_tokens)


def _together(
    model: Transformer, tokenizer: Tokenizer, cache: Cache, prompts: Sequence[list[int]], max_new_tokens: int
) -> Iterator[Reply]:
    fork = FollowedCache(cache.select([0] * len(prompts)))
    tokens: list[list[int]] = [[] for _ in prompts]
    attended: list[Counter[int]] = [Counter() for _ in prompts]
    breaks = tokenizer.sentence_ends if fork.sizes and fork.sizes.by_sentence else ()
    for emitted in generate(
        model, prompts, fork, max_new_tokens=max_new_tokens, stop_ids=tokenizer.stop_ids, breaks=breaks
    ):
        attended[emitted.row].update(fork.blocks(emitted.row))
        if emitted.token not in tokenizer.stop_ids:
            tokens[emitted.row].append(emitted.token)
    for prompt, ids, counts in zip(prompts, tokens, attended, strict=True):
        text = tokenizer.decode(ids, skip_special=True).strip()
        yield Reply(text, cache.lengths[0] + len(prompt) + len(ids), counts, fork.sizes)


class FollowedCache:
    """A cache that can be looked at while generation uses it: generation drops rows that have ended (`select`)."""

    def __init__(self, cache: Cache):
        self._cache = cache
        self._rows = list(range(len(cache.lengths)))
        self.layers: Sequence[LayerMemory] = cache.layers

    @property
    def lengths(self) -> tuple[int, ...]:
        return self._cache.lengths

    @property
    def sizes(self) -> Sizes | None:
        """The sizes of block_memory; None for caches that archive no blocks."""
        return self._cache.sizes if isinstance(self._cache, BlockMemoryCache) else None

    def blocks(self, row: int) -> list[int]:
        """First tokens of the archived blocks that a row attends to now, once for every layer and kv head."""
        if not isinstance(self._cache, BlockMemoryCache):
            return []
        return self._cache.attended_blocks(self._rows.index(row))

    def bytes(self) -> Bytes:
        return self._cache.bytes()

    def truncate(self, lengths: Sequence[int]) -> None:
        self._cache.truncate(lengths)

    def select(self, rows: Sequence[int]) -> Cache:
        """This object itself, which now stands for the chosen rows (mutates): nobody else uses the others."""
        self._cache = self._cache.select(rows)
        self.layers = self._cache.layers
        self._rows = [self._rows[row] for row in rows]
        return self
