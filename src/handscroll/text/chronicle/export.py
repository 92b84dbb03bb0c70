"""Writes a chronicle as files: the text, its questions and triples, and chats and preferences to train on.

Knows file names and columns. The text is of one split and the chats and preferences are always of the "train"
split, so a model that learns from them meets nobody of the text that it is later asked about.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from handscroll.text.chronicle.document import JOINTS, Document, paragraphs, write_document
from handscroll.text.chronicle.names import LANGUAGES, Names
from handscroll.text.chronicle.questions import even_questions
from handscroll.text.chronicle.relations import Fact, answer_sentence, draw_answer, question
from handscroll.text.files import write_files

Row = dict[str, Any]


def export(
    folder: str | Path,
    *,
    seed: int,
    languages: Sequence[str] = LANGUAGES,
    size: int,
    split: str = "read",
    questions_per_language: int | None = None,
    chats: int = 1000,
    measure: Callable[[str], int] | None = None,
    min_characters: int = 0,
) -> Document:
    """Write text.txt, questions.jsonl, triples.jsonl, chats.jsonl and preferences.jsonl; returns the document.

    questions_per_language: spread evenly over the depth; by default a hundred, or all facts of a short text.
    chats: how many rows chats.jsonl and preferences.jsonl have each. The same arguments give the same bytes.
    """
    document = write_document(seed, languages, size, split=split, measure=measure, min_characters=min_characters)
    if questions_per_language is None:
        fewest = min(sum(p.fact.lang == lang for p in document.facts) for lang in document.languages)
        questions_per_language = min(100, fewest)
    rng = random.Random(f"questions/{seed}")
    questions = even_questions(document, questions_per_language, rng)
    write_files(
        folder,
        {
            "text.txt": [document.text],
            "questions.jsonl": _lines(asked.as_row() for asked in questions),
            "triples.jsonl": _lines(_triple(placed.fact) for placed in document.facts),
            "chats.jsonl": _lines(chat_rows(chats, seed, languages)),
            "preferences.jsonl": _lines(preference_rows(chats, seed, languages)),
        },
    )
    return document


def chat_rows(count: int, seed: int, languages: Sequence[str]) -> Iterator[Row]:
    """Conversations of the train split: an excerpt and a question, then the answer sentence."""
    for fact, prompt, _ in _examples(count, f"chats/{seed}", languages):
        yield {
            "messages": [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer_sentence(fact)},
            ]
        }


def preference_rows(count: int, seed: int, languages: Sequence[str]) -> Iterator[Row]:
    """Prompts of the train split with the right answer and a wrong one that would suit the same question."""
    names = {lang: Names(lang, "train") for lang in languages}
    for fact, prompt, rng in _examples(count, f"preferences/{seed}", languages):
        while (wrong := draw_answer(fact.relation, fact.lang, rng, names[fact.lang])) == fact.answer:
            pass
        rejected = answer_sentence(Fact(fact.lang, fact.relation, fact.subject, wrong))
        yield {"prompt": prompt, "chosen": answer_sentence(fact), "rejected": rejected}


def _examples(count: int, seed: str, languages: Sequence[str]) -> Iterator[tuple[Fact, str, random.Random]]:
    rng = random.Random(seed)
    number_seed = rng.getrandbits(32)
    sources = {lang: paragraphs(lang, number_seed, split="train") for lang in languages}
    for number in range(count):
        lang = languages[number % len(languages)]
        excerpt = [next(sources[lang]) for _ in range(rng.randint(1, 3))]
        fact = rng.choice([placed.fact for paragraph in excerpt for placed in paragraph.facts])
        text = JOINTS[lang].join(paragraph.text for paragraph in excerpt)
        yield fact, f"{text}\n{question(fact, rng)}", rng


def _triple(fact: Fact) -> Row:
    return {"subject": fact.subject, "relation": fact.relation, "object": fact.answer, "lang": fact.lang}


def _lines(rows: Iterable[Row]) -> Iterator[str]:
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
