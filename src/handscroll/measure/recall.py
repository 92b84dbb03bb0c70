"""Asking about what was read: each reply is right only if it matches exactly.

Knows exact match, and where a question's fact stood when it was asked. Leaves to others how a cache is asked
(`asking.py`), where facts stand (`probes.py`) and what shares are reported of which outcomes (`policies.py`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from handscroll.kvcache.block_memory import BlockMemoryCache
from handscroll.measure.asking import replies
from handscroll.measure.probes import Probe
from handscroll.measure.table import Table, Value
from handscroll.model import Cache, Transformer
from handscroll.text import Tokenizer

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
    questions = [probe.question for probe in probes]
    asked = replies(model, tokenizer, cache, questions, batch=batch, max_new_tokens=max_new_tokens)
    for probe, reply in zip(probes, asked, strict=True):
        yield Outcome(
            probe,
            reply.text,
            is_right(reply.text, probe),
            probe.fact_start_token < reply.end - (window or model.config.max_positions),
            tuple(block for block, _ in reply.blocks.most_common(BLOCKS_KEPT)),
            reply.sizes.block if reply.sizes else None,
            _gold_read(cache, probe, reply.blocks) if isinstance(cache, BlockMemoryCache) else None,
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

    columns = tuple(f"{length:,}" for length in lengths)
    rows = [(depth_label(row, bins), *(share(row, length) for length in lengths)) for row in range(bins)]
    rows.append(("all", *(share(None, length) for length in lengths)))
    return Table("Recall against depth and length", ("depth", *columns), tuple(rows), frozenset(columns))


def depth_label(number: int, bins: int = DEPTH_BINS) -> str:
    """The name of a depth, such as "10-20 %"."""
    return f"{100 * number // bins}-{100 * (number + 1) // bins} %"


def _gold_read(cache: BlockMemoryCache, probe: Probe, attended: Container[int]) -> bool | None:
    holding = cache.blocks_with(0, probe.fact_start_token, probe.fact_end_token)
    return any(block in attended for block in holding) if holding else None
