"""What a quickstart trains on and what it reads: a chronicle, or somebody's own text with facts planted in it.

Knows which part of a text is read and which is trained on, and how both lie in a folder, so that a resumed run finds
them again. Leaves facts and their wordings to `text/chronicle/`.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handscroll.recipes.task_windows import task_texts, undivided_words
from handscroll.recipes.windows import Excerpts
from handscroll.text import Tokenizer, read_texts
from handscroll.text.chronicle import (
    LANGUAGES,
    Document,
    Fact,
    PlacedFact,
    answer_sentence,
    even_questions,
    plant,
    question,
    undivided,
    write_document,
)
from handscroll.text.chronicle.document import JOINTS
from handscroll.text.chronicle.names import name_parts
from handscroll.text.chronicle.planting import SENTENCE_ENDS
from handscroll.text.files import write_files
from handscroll.text.formats import find_files

DOCUMENT, QUESTIONS, FACTS, TRAINING = "document.txt", "questions.jsonl", "facts.jsonl", "training.jsonl"
# Bars for a long document; a short one, which somebody wants read quickly, need not be so long.
LONG_TOKENS, LONG_CHARACTERS = 131_072, 400_000
# The seed of the chronicle that is trained on; its people are those of the training split, whatever the seed.
TRAINING_SEED = 1000
# One planted fact per so many tokens, so that every window holds some; a fact has about, and at least, so many itself.
TOKENS_PER_FACT, FACT_TOKENS, SHORTEST_FACT = 128, 18, 10
# A longer text has no more of them in each language: what makes it hard shall be its length.
MOST_FACTS = 1024
SMALLEST_TRAINING_SHARE = 0.2
HAN = re.compile(r"[㐀-鿿]")
HAN_SHARE = 0.2
FEWEST_SENTENCES = 8
# Texts of several languages are read in turns, so that questions in each are spread over the whole depth.
SECTIONS = 16
QUESTIONS_PER_LANGUAGE = 100
# More of a corpus would crowd the names and answers of the chronicle out of the vocabulary.
TOKENIZER_CHARACTERS = 400_000


@dataclass(frozen=True)
class Material:
    """`document` is read; `training` is the user's text to train on, by language: nothing stands for the chronicle's.

    `notes` are for the reader: what was decided on the way.
    """

    document: Document
    training: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def excerpts(self) -> list[Excerpts]:
        if self.training:
            return [Excerpts.of(lang, text) for lang, text in self.training.items()]
        return [Excerpts(lang) for lang in self.document.languages]

    def save(self, folder: Path) -> None:
        """Writes all files; the last to appear says that the others are there."""
        document = self.document
        fewest = min(sum(p.fact.lang == lang for p in document.facts) for lang in document.languages)
        rng = random.Random(f"questions/{document.seed}")
        questions = even_questions(document, min(QUESTIONS_PER_LANGUAGE, fewest), rng)
        rows = {
            TRAINING: [{"lang": lang, "text": text} for lang, text in self.training.items()],
            QUESTIONS: [asked.as_row() for asked in questions],
            FACTS: [{**dataclasses.asdict(placed), "seed": document.seed} for placed in document.facts],
        }
        lines = {name: [json.dumps(row, ensure_ascii=False) + "\n" for row in each] for name, each in rows.items()}
        write_files(folder, {DOCUMENT: [document.text], **lines})

    @classmethod
    def load(cls, folder: Path) -> Material | None:
        """What `save` wrote; None where it was not finished."""
        if not (folder / FACTS).is_file():
            return None
        rows = read_lines(folder / FACTS)
        facts = tuple(
            PlacedFact(Fact(**row["fact"]), row["fact_start"], row["fact_end"], row["answer_start"]) for row in rows
        )
        text = (folder / DOCUMENT).read_bytes().decode("utf-8")
        document = Document(text, facts, rows[0]["seed"], "read", tokens=0)
        return cls(document, {row["lang"]: row["text"] for row in read_lines(folder / TRAINING)})


def learn_vocabulary(seed: int, corpus: Mapping[str, str], size: int, tokens: int, *, tasks: bool = False) -> Tokenizer:
    """A tokenizer of at most `size` entries, learnt from the corpus, a chronicle of `tokens` tokens, and of tasks."""
    languages = tuple(corpus) or LANGUAGES
    chronicle = training_chronicle(seed, languages, tokens)
    own = [text[:TOKENIZER_CHARACTERS] for text in corpus.values()]
    words = [word for lang in languages for word in undivided(lang)]
    texts = [chronicle.text, *training_turns(chronicle), *own]
    if tasks:
        words = list(dict.fromkeys([*words, *(word for lang in languages for word in undivided_words(lang))]))
        texts += task_texts(languages)
    learnt = Tokenizer.train(texts, size, han="isolated", words=words)
    # As every row of the curriculum begins, so shall whatever else the model is given.
    learnt.config["add_bos_token"] = True
    return learnt


def training_chronicle(seed: int, languages: Sequence[str], tokens: int) -> Document:
    """The chronicle that the tokenizer learns from: nobody in it is ever read about."""
    return write_document(seed + TRAINING_SEED, tuple(languages), tokens, split="train")


def training_turns(chronicle: Document) -> list[str]:
    """A question about each fact and its answer, and every part of a name: none of these words must fall into bytes."""
    rng = random.Random(f"turns/{chronicle.seed}")
    facts = [placed.fact for placed in chronicle.facts]
    parts = [JOINTS[lang] + part for lang in chronicle.languages for each in name_parts(lang) for part in each]
    return [*parts, *(turn for fact in facts for turn in (question(fact, rng), answer_sentence(fact)))]


def chronicle_material(seed: int, tokens: int, tokenizer: Tokenizer) -> Material:
    """A chronicle of at least `tokens` tokens to read, in every language."""
    document = write_document(
        seed,
        LANGUAGES,
        tokens,
        split="read",
        measure=lambda text: len(tokenizer.encode(text)),
        min_characters=_characters(tokens),
    )
    return Material(document, {})


def read_corpus(files: Sequence[Path]) -> dict[str, str]:
    """The text of all files by language, which its share of Han characters decides.

    Raises ValueError for what can't be read and for text without sentences to plant facts between.
    """
    texts: dict[str, list[str]] = {}
    for file in find_files(files):
        text = "\n".join(read_texts(file))
        texts.setdefault(language_of(text), []).append(text)
    corpus: dict[str, str] = {lang: "\n".join(texts[lang]) for lang in LANGUAGES if lang in texts}
    for lang, text in corpus.items():
        sentences = len(SENTENCE_ENDS[lang].findall(text))
        if sentences < FEWEST_SENTENCES:
            raise ValueError(
                f"the corpus ({lang}) has {sentences} places where a sentence ends and another begins, and facts are "
                f"planted there: give text of at least {FEWEST_SENTENCES} sentences"
            )
    return corpus


def language_of(text: str) -> str:
    """zh where at least a fifth of what is no white space is Han characters, else en."""
    visible = len(re.sub(r"\s", "", text))
    return "zh" if visible and len(HAN.findall(text)) / visible >= HAN_SHARE else "en"


def corpus_material(corpus: Mapping[str, str], seed: int, tokens: int, tokenizer: Tokenizer) -> Material:
    """The end of each text is read, with facts planted in it; what comes before it is trained on."""
    cuts = {lang: _cut(text, tokens // len(corpus), len(corpus), tokenizer, lang) for lang, text in corpus.items()}
    notes = []
    left = sum(cuts.values())
    if left >= SMALLEST_TRAINING_SHARE * sum(map(len, corpus.values())):
        training = {lang: text[: cuts[lang]] for lang, text in corpus.items() if cuts[lang]}
    else:
        training = dict(corpus)
        notes.append(
            "The corpus is too short to keep a part of it for reading alone: the model trains on all of it, but never "
            "sees the facts that are planted in what it reads."
        )
    documents = []
    for lang, text in corpus.items():
        reading = text[cuts[lang] :]
        places = len(SENTENCE_ENDS[lang].findall(reading))
        wanted = round(len(tokenizer.encode(reading)) / (TOKENS_PER_FACT - FACT_TOKENS))
        count = max(1, min(places, wanted, MOST_FACTS))
        documents.append(plant(reading, seed, lang, count, avoid=training.get(lang, "")))
    document = documents[0] if len(documents) == 1 else _in_turns(documents)
    found = len(tokenizer.encode(document.text))
    if found < tokens:
        notes.append(f"The corpus gives a document of {found:,} tokens, fewer than the {tokens:,} asked for.")
    return Material(document, training, tuple(notes))


def _cut(text: str, tokens: int, parts: int, tokenizer: Tokenizer, lang: str) -> int:
    """Where the reading part of a text begins: with the facts to come, `tokens` tokens and enough characters follow."""
    starts = [start for start, _ in tokenizer.encode_with_offsets(text).offsets]
    own = max(1, tokens - tokens // TOKENS_PER_FACT * SHORTEST_FACT)
    if len(starts) <= own:
        return 0
    cut = max(0, min(starts[-own], len(text) - _characters(tokens * parts) // parts))
    # Back to where a sentence begins, at most a sentence too much.
    ends = [match.end() for match in SENTENCE_ENDS[lang].finditer(text, max(0, cut - 2000), cut + 1)]
    return max((end for end in ends if end <= cut), default=cut)


def _characters(tokens: int) -> int:
    return LONG_CHARACTERS if tokens >= LONG_TOKENS else 0


def _in_turns(documents: Sequence[Document]) -> Document:
    """The documents in sections, one of each in turn."""
    texts: list[str] = []
    facts: list[PlacedFact] = []
    written = 0
    borders = [_borders(document) for document in documents]
    for section in range(SECTIONS):
        for document, ends in zip(documents, borders, strict=True):
            start, end = ends[section], ends[section + 1]
            inside = [placed for placed in document.facts if start <= placed.fact_start < end]
            facts.extend(placed.moved(written - start) for placed in inside)
            texts.append(document.text[start:end] + "\n")
            written += end - start + 1
    first = documents[0]
    return Document("".join(texts), tuple(facts), first.seed, first.split, sum(each.tokens for each in documents))


def _borders(document: Document) -> list[int]:
    """Where sections begin and end: right before a planted fact, which never stands within a word."""
    places = [placed.fact_start for placed in document.facts]
    inner = [places[len(places) * section // SECTIONS] for section in range(1, SECTIONS)]
    return [0, *inner, len(document.text)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl file of this run."""
    # Not splitlines: JSON strings may hold line separators such as U+2028 as they are.
    return [json.loads(line) for line in path.read_bytes().decode("utf-8").split("\n") if line]
