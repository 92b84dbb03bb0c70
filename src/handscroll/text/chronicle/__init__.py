"""The chronicle: a synthetic world in English and Chinese, with exact ground truth for any length and seed.

It is the wind tunnel of the project: people, places, trades, years, teachers and events, stated in many wordings and
asked for in others, so that reading far past a training window can be measured without labelling anything.

- `names.py` who exists, and that the people of training and of reading are never the same
- `relations.py`, `answers.py` what can be said of a person: facts, questions, answers
- `fillers.py` sentences about nobody
- `document.py` a text of any size with the place of every fact; `planting.py` facts inside a given text
- `questions.py` questions spread over the depth; `export.py` files

What it promises: same seed, same bytes; (subject, relation) occurs once in a document; a question shares no run of
four tokens with its fact but the name; `text[fact_start:fact_end]` is the sentence that states the fact.

A new relation is one entry of `RELATIONS`:

    GIFT_EN = Wording(
        facts=("Villagers offered {name} a precious {answer}.", ...at least four...),
        questions=("What did {name} receive?", ...at least four...),
        answer="For {name} the gift was {answer}.",
    )
    RELATIONS["gift"] = Relation({"en": GIFT_EN, "zh": GIFT_ZH}, pool=GIFTS)
"""

from handscroll.text.chronicle.document import (
    Document,
    Paragraph,
    PlacedFact,
    estimate_tokens,
    mixed_paragraphs,
    paragraphs,
    write_document,
)
from handscroll.text.chronicle.export import export
from handscroll.text.chronicle.fillers import filler
from handscroll.text.chronicle.names import LANGUAGES, SPLITS, Names
from handscroll.text.chronicle.planting import plant
from handscroll.text.chronicle.questions import Question, ask, even_questions
from handscroll.text.chronicle.relations import (
    RELATIONS,
    Fact,
    answer_sentence,
    draw_answer,
    draw_fact,
    fact_sentence,
    question,
    undivided,
)

__all__ = [
    "LANGUAGES",
    "RELATIONS",
    "SPLITS",
    "Document",
    "Fact",
    "Names",
    "Paragraph",
    "PlacedFact",
    "Question",
    "answer_sentence",
    "ask",
    "draw_answer",
    "draw_fact",
    "estimate_tokens",
    "even_questions",
    "export",
    "fact_sentence",
    "filler",
    "mixed_paragraphs",
    "paragraphs",
    "plant",
    "question",
    "undivided",
    "write_document",
]
