"""Questions about a text that is read as tokens: where the answer's fact stands, and which replies are right.

Knows how characters map to tokens. Leaves to others what a chronicle asks (`text/chronicle/`) and who is asked
(`recall.py`).
"""

from __future__ import annotations

import dataclasses
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from handscroll.text.chronicle import RELATIONS, Document, Fact, Question, answer_sentence, ask, even_questions

# Tokens that a question and its reply take of the window, at most, with a vocabulary of a few thousand.
QUESTION_AND_REPLY = 64


@dataclass(frozen=True)
class Probe:
    """A question to ask once `length` tokens are read, and where these state the fact: tokens start:end.

    `accepted` are the replies that count as right: each answer alone, and each full answer sentence. `is_extra` marks
    questions that were added to fill a place, such as the window: they are left out where recall over the whole depth
    is reported.
    """

    id: str
    lang: str
    question: str
    answers: tuple[str, ...]
    accepted: tuple[str, ...]
    relation: str
    subject: str
    fact_start_token: int
    fact_end_token: int
    length: int
    is_extra: bool = False

    def __post_init__(self) -> None:
        assert 0 <= self.fact_start_token < self.fact_end_token <= self.length, f"{self.id} is not in the text read"

    @property
    def depth(self) -> float:
        """Where the fact begins: 0 at the text's beginning, 1 at the last token read."""
        return self.fact_start_token / self.length

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Probe:
        return cls(**{**row, "answers": tuple(row["answers"]), "accepted": tuple(row["accepted"])})


class TokenSpans:
    """Characters to tokens, for the offsets of one text (`Tokenizer.encode_with_offsets`).

    `before` counts tokens that stand before the text and have no characters, such as a beginning-of-text token.
    """

    def __init__(self, offsets: Sequence[tuple[int, int]], before: int = 0):
        self._starts = [start for start, _ in offsets]
        self._ends = [end for _, end in offsets]
        self._before = before

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The tokens first:last that cover characters start:end, whole tokens and all bytes of a character."""
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if start >= end or first >= last:
            raise ValueError(f"characters {start} to {end} are in no token: the text ends at character {self.end}")
        return self._before + first, self._before + last

    def place(self, first: int, last: int) -> tuple[int, int]:
        """The characters that tokens first:last cover, as far as the text has them."""
        first, last = max(first - self._before, 0), min(last - self._before, len(self._starts))
        return (self._starts[first], self._ends[last - 1]) if first < last else (self.end, self.end)

    def characters(self, tokens: int) -> int:
        """How many characters the first `tokens` tokens cover."""
        inside = min(max(tokens - self._before, 0), len(self._ends))
        return self._ends[inside - 1] if inside else 0

    @property
    def end(self) -> int:
        return self._ends[-1] if self._ends else 0


def make_probes(
    questions: Iterable[Question],
    spans: TokenSpans,
    length: int,
    *,
    is_extra: bool = False,
) -> list[Probe]:
    """The questions that can be asked after `length` tokens: those whose fact is wholly among them."""
    probes = []
    for asked in questions:
        start, end = spans.span(asked.fact_start, asked.fact_end)
        if end <= length:
            probes.append(
                Probe(
                    asked.id,
                    asked.lang,
                    asked.question,
                    tuple(asked.answers),
                    accepted_replies(asked),
                    asked.relation,
                    asked.subject,
                    start,
                    end,
                    length,
                    is_extra,
                )
            )
    return probes


def document_probes(
    document: Document, spans: TokenSpans, length: int, *, per_language: int, seed: int = 0, window: int = 0
) -> list[Probe]:
    """Questions for the first `length` tokens: `per_language` spread evenly over the depth, then extra ones.

    The extra ones ask for every other fact of the last `window` tokens that is still among them once a question and
    its reply are read. Fewer than `per_language` facts of a language: all of them are asked for. ValueError where there
    is none.
    """
    rng = random.Random(f"probes/{seed}/{length}")
    end = spans.characters(length)
    placed = [each for each in document.facts if each.fact_end <= end]
    if not placed:
        raise ValueError(f"no fact is stated in the first {length} tokens: read more of the text, or a denser one")
    shortened = dataclasses.replace(document, facts=tuple(placed), text=document.text[:end])
    fewest = min(sum(each.fact.lang == lang for each in placed) for lang in shortened.languages)
    even = even_questions(shortened, min(per_language, fewest), rng)
    begin = spans.characters(length - window + QUESTION_AND_REPLY) if window > QUESTION_AND_REPLY else end
    asked_places = {asked.fact_start for asked in even}
    near = [each for each in placed if each.fact_start >= begin and each.fact_start not in asked_places]
    extra = [ask(each, rng) for each in near]
    return make_probes(even, spans, length) + make_probes(extra, spans, length, is_extra=True)


def accepted_replies(asked: Question) -> tuple[str, ...]:
    """Each answer alone and, where the chronicle knows how it is worded, each full answer sentence."""
    sentences: list[str] = []
    if asked.relation in RELATIONS and asked.lang in RELATIONS[asked.relation].wordings:
        sentences = [answer_sentence(Fact(asked.lang, asked.relation, asked.subject, each)) for each in asked.answers]
    return (*asked.answers, *sentences)
