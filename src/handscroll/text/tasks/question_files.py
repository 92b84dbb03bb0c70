"""Questions of the user's own files about one paragraph among many, as RULER asks them (https://arxiv.org/abs/2404.06654).

RULER takes SQuAD (qa_1) and HotpotQA (qa_2). No file comes with Handscroll: a user names files in the SQuAD format,
{"data": [{"paragraphs": [{"context", "qas": [{"question", "answers": [{"text"}]}]}]}]}. The paragraphs of the other
questions are what the golden one stands among. Of HotpotQA, a context is all its supporting paragraphs in one.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handscroll.text.tasks.checks import check_files
from handscroll.text.tasks.filling import FULL_ENOUGH, even_places, fit
from handscroll.text.tasks.task import Asked, Measure, Sample, Task

OPENING = {
    "en": "Answer the question based on the given documents. Only give me the answer.\n\n",
    "zh": "请根据给出的文档回答问题，只给出答案。\n\n",
}
TITLE = {"en": "Document {number}:", "zh": "文档{number}："}
FORMAT = (
    'it must be {"data": [{"paragraphs": [{"context": ..., "qas": [{"question": ..., "answers": [{"text": ...}]}]}]}]}'
)


@dataclass(frozen=True)
class QuestionFilesOptions:
    """files: in the SQuAD format, all in the language that is asked for."""

    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_files("files", self.files)


Questions = list[tuple[str, tuple[str, ...]]]
Paragraphs = dict[str, Questions]


def write(
    rng: random.Random, tokens: int, lang: str, measure: Measure, questions: int, options: QuestionFilesOptions
) -> Sample:
    """Golden paragraphs at even places among others of the same files; any of a question's answers is right."""
    if not options.files:
        raise ValueError(
            "questions about documents are built from files of yours, and none is given; "
            f"name files in the SQuAD format in `files`: {FORMAT}"
        )
    paragraphs = read_question_files(options.files)
    answerable = [context for context, asked in paragraphs.items() if asked]
    if len(answerable) < questions:
        raise ValueError(
            f"{questions} questions about different paragraphs are asked for, and the files hold {len(answerable)}; "
            "ask fewer or name more files"
        )
    golden = rng.sample(answerable, questions)
    chosen = [rng.choice(paragraphs[context]) for context in golden]
    others = [context for context in paragraphs if context not in golden]
    rng.shuffle(others)
    places = even_places(questions, rng)

    def documents(count: int) -> list[str]:
        listed = others[:count]
        for number, (place, context) in enumerate(zip(places, golden, strict=True)):
            listed.insert(round(place * count) + number, context)
        return listed

    def context(count: int) -> str:
        titled = (f"{TITLE[lang].format(number=n)}\n{text}" for n, text in enumerate(documents(count), 1))
        return OPENING[lang] + "\n\n".join(titled)

    count = fit(context, tokens, measure, least=0, most=len(others))
    text = context(count)
    if count == len(others) and measure(text) < FULL_ENOUGH * tokens:
        raise ValueError(
            f"the context is to have {tokens} tokens, and the {len(paragraphs)} paragraphs of the files have fewer; "
            "name more files or ask for a shorter context"
        )
    asked = []
    for gold, (question, own) in zip(golden, chosen, strict=True):
        start = text.index(f"\n{gold}") + 1
        asked.append(Asked(question, own, "any", ((start, start + len(gold)),), start / len(text)))
    return Sample(text, tuple(asked), lang)


def read_question_files(files: tuple[str, ...]) -> Paragraphs:
    """Every paragraph with its questions; answers that it doesn't contain are left out, as some files have."""
    paragraphs: Paragraphs = {}
    for file in files:
        for context, asked in _paragraphs(file):
            paragraphs.setdefault(context, []).extend(asked)
    return paragraphs


def _paragraphs(file: str) -> list[tuple[str, Questions]]:
    try:
        content: Any = json.loads(Path(file).read_text(encoding="utf-8-sig"))
        found = []
        for paragraph in (paragraph for entry in content["data"] for paragraph in entry["paragraphs"]):
            context = paragraph["context"].strip()
            questions = [
                (asked["question"], tuple(dict.fromkeys(a["text"] for a in asked["answers"] if a["text"] in context)))
                for asked in paragraph["qas"]
            ]
            found.append((context, [(question, answers) for question, answers in questions if answers]))
        return found
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror}. Check the path.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not in the SQuAD format ({error}); {FORMAT}") from error


QUESTION_FILES = Task("qa", QuestionFilesOptions, write)
