"""Questions with their replies, and the passage that was read for each: what a reader of a report wants to see.

Knows which outcomes are worth showing and how a passage is cut into plain, block and fact. Leaves HTML, and the
escaping of everything that comes from texts and models, to the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from handscroll.measure.probes import Probe, TokenSpans
from handscroll.measure.recall import Outcome
from handscroll.measure.results import PolicyResult

SHOWN_RIGHT, SHOWN_WRONG = 5, 3
# Tokens of the text shown on either side, so that a block that begins within a sentence can be understood.
AROUND = 24


class Piece(NamedTuple):
    """A run of characters: inside the block that was read or not, inside the fact or not."""

    text: str
    in_block: bool
    in_fact: bool


@dataclass(frozen=True)
class Passage:
    """A stretch of the document around a block, a fact, or both. `tokens` are those of the block, else of the fact."""

    caption: str
    pieces: tuple[Piece, ...]
    tokens: tuple[int, int]


@dataclass(frozen=True)
class Shown:
    """One question under the main policy; `others` are (policy, reply, right) of the other policies that were asked."""

    outcome: Outcome
    answer: str
    others: tuple[tuple[str, str, bool], ...]
    passages: tuple[Passage, ...]

    @property
    def tokens_ago(self) -> int:
        """How far before the question the fact stands."""
        return self.outcome.probe.length - self.outcome.probe.fact_end_token


def choose(
    main: PolicyResult, others: Sequence[PolicyResult], document: str, spans: TokenSpans | None
) -> tuple[Shown, ...]:
    """Some wrong replies, then some right ones, spread over depth and languages, at the greatest length asked."""
    last = max((outcome.probe.length for outcome in main.outcomes), default=0)
    asked = [outcome for outcome in main.outcomes if outcome.probe.length == last and not outcome.probe.is_extra]
    wrong = _spread([outcome for outcome in asked if not outcome.correct], SHOWN_WRONG)
    right = _spread([outcome for outcome in asked if outcome.correct], SHOWN_RIGHT + SHOWN_WRONG - len(wrong))
    replies = [
        (other.name, {outcome.probe.id: outcome for outcome in other.outcomes if outcome.probe.length == last})
        for other in others
    ]
    return tuple(
        Shown(
            outcome,
            outcome.probe.accepted[-1],
            tuple(
                (name, by_id[outcome.probe.id].reply, by_id[outcome.probe.id].correct)
                for name, by_id in replies
                if outcome.probe.id in by_id
            ),
            passages(outcome, document, spans) if spans is not None else (),
        )
        for outcome in (*wrong, *right)
    )


def passages(outcome: Outcome, document: str, spans: TokenSpans) -> tuple[Passage, ...]:
    """The block that was read for the reply, and where the fact stands if that was not in it."""
    probe, fact = outcome.probe, (outcome.probe.fact_start_token, outcome.probe.fact_end_token)
    gold = next((block for block in outcome.blocks if _overlap(outcome, block)), None)
    if outcome.block_size is None or not outcome.blocks:
        return (_passage("The fact in the text", document, spans, None, fact),)
    if gold is not None:
        block = (gold, gold + outcome.block_size)
        return (_passage("The block that was read, with the fact", document, spans, block, fact),)
    block = (outcome.blocks[0], outcome.blocks[0] + outcome.block_size)
    held = "still in the window" if outcome.gold_read is None and not outcome.beyond_window else "its block not read"
    return (
        _passage("The block that was read most", document, spans, block, None),
        _passage(
            f"The fact in the text, {held}", document, spans, None, (probe.fact_start_token, probe.fact_end_token)
        ),
    )


def _passage(
    caption: str, document: str, spans: TokenSpans, block: tuple[int, int] | None, fact: tuple[int, int] | None
) -> Passage:
    marked = [span for span in (block, fact) if span is not None]
    first, last = min(start for start, _ in marked), max(end for _, end in marked)
    start, end = spans.place(first - AROUND, last + AROUND)
    block_span = spans.place(*block) if block else (0, 0)
    fact_span = _without_space(document, *spans.place(*fact)) if fact else (0, 0)
    cuts = sorted({start, end, *(cut for cut in (*block_span, *fact_span) if start < cut < end)})
    pieces = tuple(
        Piece(document[a:b], block_span[0] <= a < block_span[1], fact_span[0] <= a < fact_span[1])
        for a, b in pairwise(cuts)
    )
    return Passage(caption, pieces, block or fact or (0, 0))


def _without_space(text: str, start: int, end: int) -> tuple[int, int]:
    """A token may begin with the space before a sentence, which is no part of it."""
    while start < end and text[start].isspace():
        start += 1
    return start, end


def _overlap(outcome: Outcome, block: int) -> bool:
    assert outcome.block_size is not None
    probe: Probe = outcome.probe
    return block < probe.fact_end_token and block + outcome.block_size > probe.fact_start_token


def _spread(outcomes: Sequence[Outcome], number: int) -> list[Outcome]:
    """`number` of them at even distances, so that all depths are there; languages alternate as they do in the text."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.probe.fact_start_token)
    if len(ordered) <= number:
        return ordered
    return [ordered[int((place + 0.5) * len(ordered) / number)] for place in range(number)]
