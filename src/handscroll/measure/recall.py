"""Asking about what was read: forks of a cache answer questions, and each reply is right only if it matches exactly.

Knows chat prompts, greedy decoding, exact match, and which archived blocks were read on the way to the reply. Leaves to
others where facts stand (`probes.py`) and what shares are reported of which outcomes (`policies.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from handscroll.generation import generate
from handscroll.kvcache.block_memory import BlockMemoryCache, Sizes
from handscroll.measure.probes import Probe
from handscroll.measure.table import Table, Value
from handscroll.model import Bytes, Cache, LayerMemory, Transformer
from handscroll.text import Tokenizer, chat_tokens

# A fork copies what its cache holds on the device: with a long full cache only a few fit at a time.
LARGEST_FORKS = 2**30
# Of a large model's thousands of attended blocks, the most attended ones are kept with an outcome.
BLOCKS_KEPT = 32
DEPTH_BINS = 10


@dataclass(frozen=True)
class Outcome:
    """A reply, and whether it is right.

    `beyond_window`: the fact was not wholly inside the last `window` tokens when the reply ended.
    `blocks`: first tokens of the archived blocks that were attended while replying, most attended first; each holds
    `block_size` tokens, or up to as many where blocks end with sentences. `gold_read`: whether one of them held part of
    the fact, at any layer and kv head; None where the policy archives no blocks, or the fact stood elsewhere (in the
    sinks, in the local window).
    """

    probe: Probe
    reply: str
    correct: bool
    beyond_window: bool
    blocks: tuple[int, ...] = ()
    block_size: int | None = None
    gold_read: bool | None = None

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Outcome:
        return cls(**{**row, "probe": Probe.from_json(row["probe"]), "blocks": tuple(row["blocks"])})


def ask(
    model: Transformer,
    tokenizer: Tokenizer,
    cache: Cache,
    probes: Sequence[Probe],
    *,
    window: int | None = None,
    batch: int = 32,
    max_new_tokens: int = 48,
) -> Iterator[Outcome]:
    """Asks each question of a fork of `cache` (one row, left as it is), up to `batch` at a time, in order.

    window: what counts as inside the window, in tokens; the trained one by default.
    """
    if batch < 1:
        raise ValueError(f"batch={batch}: at least 1 question is asked at a time")
    assert len(cache.lengths) == 1, f"questions are asked of one text, not of {len(cache.lengths)} rows"
    batch = max(1, min(batch, LARGEST_FORKS // max(1, cache.bytes().device)))
    for first in range(0, len(probes), batch):
        together = probes[first : first + batch]
        yield from _ask_together(
            model, tokenizer, cache, together, window or model.config.max_positions, max_new_tokens
        )


def normalize(reply: str) -> str:
    """Without white space around it and without a final full stop, of either language."""
    return reply.strip().rstrip(".。").rstrip()


def is_right(reply: str, probe: Probe) -> bool:
    """Exact match with one of the accepted replies."""
    return normalize(reply) in {normalize(accepted) for accepted in probe.accepted}


def recall_grid(outcomes: Iterable[Outcome], bins: int = DEPTH_BINS) -> Table:
    """Recall at each depth (rows) and length (columns); the last row is over all depths. None where nobody asked.

    Extra questions are left out: they would lift the depths that they were added to.
    """
    counted: dict[tuple[int | None, int], list[bool]] = {}
    for outcome in outcomes:
        if outcome.probe.is_extra:
            continue
        depth = min(bins - 1, int(outcome.probe.depth * bins))
        for row in (depth, None):
            counted.setdefault((row, outcome.probe.length), []).append(outcome.correct)
    lengths = sorted({length for _, length in counted})

    def share(row: int | None, length: int) -> Value:
        answers = counted.get((row, length))
        return sum(answers) / len(answers) if answers else None

    names = {row: f"{100 * row // bins}-{100 * (row + 1) // bins} %" for row in range(bins)}
    columns = tuple(f"{length:,}" for length in lengths)
    rows = [(names[row], *(share(row, length) for length in lengths)) for row in range(bins)]
    rows.append(("all", *(share(None, length) for length in lengths)))
    return Table("Recall against depth and length", ("depth", *columns), tuple(rows), frozenset(columns))


def _ask_together(
    model: Transformer, tokenizer: Tokenizer, cache: Cache, probes: Sequence[Probe], window: int, max_new_tokens: int
) -> Iterator[Outcome]:
    prompts = [
        chat_tokens(tokenizer, [{"role": "user", "content": probe.question}], add_generation_prompt=True).ids
        for probe in probes
    ]
    fork = FollowedCache(cache.select([0] * len(probes)))
    replies: list[list[int]] = [[] for _ in probes]
    attended: list[Counter[int]] = [Counter() for _ in probes]
    sizes = fork.sizes
    breaks = tokenizer.sentence_ends if sizes and sizes.by_sentence else ()
    for emitted in generate(
        model, prompts, fork, max_new_tokens=max_new_tokens, stop_ids=tokenizer.stop_ids, breaks=breaks
    ):
        attended[emitted.row].update(fork.blocks(emitted.row))
        if emitted.token not in tokenizer.stop_ids:
            replies[emitted.row].append(emitted.token)
    for probe, prompt, ids, counts in zip(probes, prompts, replies, attended, strict=True):
        reply = tokenizer.decode(ids, skip_special=True)
        end = cache.lengths[0] + len(prompt) + len(ids)
        yield Outcome(
            probe,
            reply.strip(),
            is_right(reply, probe),
            probe.fact_start_token < end - window,
            tuple(block for block, _ in counts.most_common(BLOCKS_KEPT)),
            sizes.block if sizes else None,
            _gold_read(cache, probe, counts) if isinstance(cache, BlockMemoryCache) else None,
        )


def _gold_read(cache: BlockMemoryCache, probe: Probe, attended: Container[int]) -> bool | None:
    holding = cache.blocks_with(0, probe.fact_start_token, probe.fact_end_token)
    return any(block in attended for block in holding) if holding else None


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
        trace = self._cache.trace(self._rows.index(row))
        return [start for layer in trace for head in layer for start in head]

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
