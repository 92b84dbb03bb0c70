"""Which questions are asked about a document: evenly over its depth, so that recall can be read against depth.

Knows how to choose among the facts of a document. Leaves the wording to `relations.py`.
"""

import random
from bisect import bisect_left
from dataclasses import asdict, dataclass
from typing import Any

from handscroll.text.chronicle.document import Document, PlacedFact
from handscroll.text.chronicle.relations import question


@dataclass(frozen=True)
class Question:
    """A question, its right answers, and where the document states the fact (characters)."""

    id: str
    lang: str
    question: str
    answers: list[str]
    relation: str
    subject: str
    fact_start: int
    fact_end: int

    def as_row(self) -> dict[str, Any]:
        """The columns of questions.jsonl."""
        return asdict(self)


def even_questions(
    document: Document,
    per_language: int,
    rng: random.Random,
    *,
    within: tuple[int, int] | None = None,
) -> list[Question]:
    """`per_language` questions for every language of the document, spread evenly over its depth.

    within: ask only for facts between these two characters. Raises ValueError when there are too few facts.
    """
    start, end = within or (0, len(document.text))
    questions: list[Question] = []
    for lang in document.languages:
        facts = [p for p in document.facts if p.fact.lang == lang and start <= p.fact_start and p.fact_end <= end]
        if len(facts) < per_language:
            raise ValueError(
                f"{per_language} questions in {lang} are asked for, and the text holds {len(facts)} such facts "
                f"between characters {start} and {end}; give a longer document or ask fewer"
            )
        questions.extend(ask(placed, rng) for placed in _evenly(facts, per_language, start, end))
    return sorted(questions, key=lambda asked: asked.fact_start)


def ask(placed: PlacedFact, rng: random.Random) -> Question:
    """The question that one fact answers."""
    fact = placed.fact
    return Question(
        id=f"{fact.lang}-{fact.relation}-{placed.fact_start}",
        lang=fact.lang,
        question=question(fact, rng),
        answers=[fact.answer],
        relation=fact.relation,
        subject=fact.subject,
        fact_start=placed.fact_start,
        fact_end=placed.fact_end,
    )


def _evenly(facts: list[PlacedFact], count: int, start: int, end: int) -> list[PlacedFact]:
    positions = [placed.fact_start for placed in facts]
    chosen: list[PlacedFact] = []
    earliest = 0
    for number in range(count):
        wanted = bisect_left(positions, start + (number + 0.5) / count * (end - start))
        index = max(earliest, min(wanted, len(facts) - (count - number)))
        chosen.append(facts[index])
        earliest = index + 1
    return chosen
