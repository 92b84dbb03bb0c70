"""Lays facts and fillers out into a text of any length, with the exact place of every fact.

Knows paragraphs, the mixture of languages, sizes and offsets. Leaves to others what sentences say (`relations.py`,
`fillers.py`), facts inside somebody else's text (`planting.py`) and which questions are asked (`questions.py`).

A paragraph is in one language: an opening filler, then one or two people's facts, shuffled with further fillers, so
that about a tenth of the sentences are facts. Nobody occurs in two paragraphs, so (subject, relation) is unique.
English sentences are joined by a space, Chinese ones by nothing, paragraphs by a line break. All offsets count
characters.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from handscroll.text.chronicle.fillers import filler
from handscroll.text.chronicle.names import LANGUAGES, Names
from handscroll.text.chronicle.relations import RELATIONS, Fact, Statement, draw_fact, state

JOINTS = {"en": " ", "zh": ""}
FILLERS_PER_FACT = 9  # a tenth of the sentences are facts: one per 128 tokens, as many as are planted in a corpus
# So far may the languages drift apart, in tokens, before the shorter one is given the next paragraph.
LARGEST_LEAD = 400


@dataclass(frozen=True)
class PlacedFact:
    """A fact and where its sentence and its answer stand in the text."""

    fact: Fact
    fact_start: int
    fact_end: int
    answer_start: int

    @property
    def answer_end(self) -> int:
        return self.answer_start + len(self.fact.answer)

    def moved(self, by: int) -> "PlacedFact":
        return PlacedFact(self.fact, self.fact_start + by, self.fact_end + by, self.answer_start + by)


@dataclass(frozen=True)
class Paragraph:
    """A few sentences of one language; offsets count from its start."""

    lang: str
    text: str
    facts: tuple[PlacedFact, ...]


@dataclass(frozen=True)
class Document:
    """A text and every fact in it, in the order of the text. `tokens` is what `measure` counted."""

    text: str
    facts: tuple[PlacedFact, ...]
    seed: int
    split: str
    tokens: int

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(lang for lang in LANGUAGES if any(placed.fact.lang == lang for placed in self.facts))


def estimate_tokens(text: str) -> int:
    """A guess for callers without a tokenizer: one token a Chinese character, four Latin characters a token."""
    wide = (len(text.encode()) - len(text)) // 2
    return wide + (len(text) - wide + 3) // 4


def write_document(
    seed: int,
    languages: Sequence[str] = LANGUAGES,
    size: int = 1000,
    *,
    split: str = "read",
    measure: Callable[[str], int] | None = None,
    min_characters: int = 0,
) -> Document:
    """A chronicle of at least `size` tokens and `min_characters` characters; it overshoots by less than a paragraph.

    measure: how many tokens a text has, such as `lambda text: len(tokenizer.encode(text))`; default an estimate.
    """
    if size < 1:
        raise ValueError(f"size is {size} tokens; it must be at least 1")
    texts: list[str] = []
    facts: list[PlacedFact] = []
    tokens = characters = 0
    for paragraph, count in mixed_paragraphs(seed, languages, split=split, measure=measure or estimate_tokens):
        facts.extend(placed.moved(characters) for placed in paragraph.facts)
        texts.append(paragraph.text)
        characters += len(paragraph.text) + 1
        tokens += count
        if tokens >= size and characters >= min_characters:
            break
    return Document("\n".join(texts) + "\n", tuple(facts), seed, split, tokens)


def mixed_paragraphs(
    seed: int, languages: Sequence[str], *, split: str, measure: Callable[[str], int]
) -> Iterator[tuple[Paragraph, int]]:
    """Paragraphs without end, with their tokens: languages at random, each with the same share of tokens."""
    if not languages or len(set(languages)) != len(languages):
        raise ValueError(f"languages are {list(languages)}; give one or more different ones of {', '.join(LANGUAGES)}")
    rng = random.Random(f"mixture/{seed}")
    sources = {lang: paragraphs(lang, seed, split=split) for lang in languages}
    used = dict.fromkeys(languages, 0)
    while True:
        lang = rng.choice(list(languages))
        behind = min(used, key=used.__getitem__)
        if used[lang] - used[behind] > LARGEST_LEAD:
            lang = behind
        paragraph = next(sources[lang])
        count = measure(paragraph.text + "\n")
        used[lang] += count
        yield paragraph, count


def paragraphs(lang: str, seed: int, *, split: str) -> Iterator[Paragraph]:
    """Paragraphs of one language, each about people who were not mentioned before, until the names are used up."""
    names = Names(lang, split, seed)
    subjects = iter(names)
    rng = random.Random(f"paragraphs/{lang}/{split}/{seed}")
    while True:
        facts = [
            draw_fact(relation, subject, rng, names)
            for subject in [next(subjects) for _ in range(rng.randint(1, 2))]
            for relation in rng.sample(list(RELATIONS), rng.randint(1, 3))
        ]
        # The expected number, rounded at random: a fixed rounding would shift the share of facts.
        fillers = max(1, int(len(facts) * FILLERS_PER_FACT + rng.random()))
        sentences: list[Fact | None] = [*facts, *[None] * (fillers - 1)]
        rng.shuffle(sentences)
        yield _compose(lang, [None, *sentences], rng)


def _compose(lang: str, sentences: Sequence[Fact | None], rng: random.Random) -> Paragraph:
    joint = JOINTS[lang]
    texts: list[str] = []
    placed: list[PlacedFact] = []
    position = 0
    for fact in sentences:
        stated = Statement(filler(lang, rng), 0) if fact is None else state(fact, rng)
        if fact is not None:
            end = position + len(stated.sentence)
            placed.append(PlacedFact(fact, position, end, position + stated.answer_start))
        texts.append(stated.sentence)
        position += len(stated.sentence) + len(joint)
    return Paragraph(lang, joint.join(texts), tuple(placed))
