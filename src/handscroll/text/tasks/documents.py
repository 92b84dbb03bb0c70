"""Lost in the middle (https://arxiv.org/abs/2307.03172): one of N documents answers, at place k of N.

Each document is about somebody else of the chronicle and states the same relation, so that all of them look relevant.
The paper's documents are passages of Wikipedia; here any length and both languages can be had.
"""

import random
from dataclasses import dataclass

from handscroll.text.chronicle.names import SPLITS, Names
from handscroll.text.chronicle.relations import RELATIONS, Fact, draw_fact, fact_sentence, question
from handscroll.text.tasks.checks import check_choice, check_count
from handscroll.text.tasks.filling import Pieces, even_places, fit
from handscroll.text.tasks.haystack import JOINTS, hay
from handscroll.text.tasks.task import Asked, Measure, Sample, Task

TITLE = {"en": "Document [{number}]", "zh": "文档[{number}]"}
# Answers that are asked for are no other document's, so that there must be enough others.
MOST_ASKED = 30


@dataclass(frozen=True)
class DocumentsOptions:
    """documents: N of the paper. split: whose names; a model is trained on "train" and measured on "read"."""

    documents: int = 20
    split: str = "read"

    def __post_init__(self) -> None:
        check_count("documents", self.documents, 1)
        check_choice("split", self.split, SPLITS)


class _Layout:
    """The documents with so many sentences in all, and where each begins and states its fact."""

    def __init__(self, lang: str, facts: list[str], fillers: list[str], fact_places: list[float]) -> None:
        joint = JOINTS[lang]
        parts: list[str] = []
        self.spans: list[tuple[int, int]] = []
        self.starts: list[int] = []
        position = used = 0
        for number, fact in enumerate(facts):
            own = fillers[used : used + len(fillers) // len(facts) + (number < len(fillers) % len(facts))]
            used += len(own)
            index = int(fact_places[number] * (len(own) + 1))
            title = TITLE[lang].format(number=number + 1) + "\n"
            before = title + "".join(sentence + joint for sentence in own[:index])
            after = "".join(joint + sentence for sentence in own[index:])
            self.starts.append(position)
            self.spans.append((position + len(before), position + len(before) + len(fact)))
            parts.append(before + fact + after)
            position += len(parts[-1]) + 2
        self.text = "\n\n".join(parts)


def write(
    rng: random.Random, tokens: int, lang: str, measure: Measure, questions: int, options: DocumentsOptions
) -> Sample:
    """Documents of even lengths that fill the context together; `depth` is where the gold one begins."""
    relation = rng.choice(list(RELATIONS))
    if questions > min(options.documents, MOST_ASKED):
        raise ValueError(
            f"{questions} questions are asked of {options.documents} documents; "
            f"ask at most one a document, and at most {MOST_ASKED}"
        )
    places = [int(place * options.documents) for place in even_places(questions, rng)]
    names = Names(lang, options.split, rng.getrandbits(32))
    people = names.take(options.documents)
    facts: dict[int, Fact] = {}
    wanted: set[str] = set()
    for place in sorted(range(options.documents), key=lambda place: place not in places):
        while (fact := draw_fact(relation, people[place], rng, names)).answer in wanted:
            pass
        facts[place] = fact
        if place in places:
            wanted.add(fact.answer)
    sentences = [fact_sentence(facts[place], rng) for place in range(options.documents)]
    fact_places = [rng.random() for _ in people]
    fillers = Pieces(hay("chronicle", lang, rng))

    def laid(count: int) -> _Layout:
        return _Layout(lang, sentences, fillers.first(count), fact_places)

    layout = laid(fit(lambda count: laid(count).text, tokens, measure))
    asked = []
    for place in places:
        fact = facts[place]
        depth = layout.starts[place] / len(layout.text)
        asked.append(Asked(question(fact, rng), (fact.answer,), "all", (layout.spans[place],), depth))
    return Sample(layout.text, tuple(asked), lang)


LOST_IN_THE_MIDDLE = Task("lost_in_the_middle", DocumentsOptions, write)
