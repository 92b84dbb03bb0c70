"""Samples of a task as chat rows, one a line: the user gives context and question, the assistant answers.

Knows the columns of a file to train on. Where people of the chronicle are asked about, they are those of the "train"
split, so that a model is measured on others than it has learnt from.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from handscroll.text.chronicle.document import estimate_tokens
from handscroll.text.files import write_files
from handscroll.text.tasks import find_task, write_sample
from handscroll.text.tasks.task import Asked, Measure

LISTED = {"en": ", ", "zh": "、"}


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One row a line, as they come; the file appears when all are there."""
    write_files(file.parent, {file.name: (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)})


def chat_rows(
    name: str,
    *,
    tokens: int,
    count: int,
    languages: Sequence[str],
    seed: int = 0,
    measure: Measure = estimate_tokens,
    options: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """One context and one question a row, the languages taking turns. The same arguments give the same rows."""
    if not languages:
        raise ValueError("no language is given; name one or more, such as en,zh")
    task, _ = find_task(name, options)
    split = {"split": "train"} if "split" in {field.name for field in dataclasses.fields(task.options)} else {}
    for number in range(count):
        lang = languages[number % len(languages)]
        sample = write_sample(
            name,
            tokens=tokens,
            lang=lang,
            seed=f"{seed}/{number}",
            measure=measure,
            options={**split, **(options or {})},
        )
        asked = sample.asked[0]
        yield {
            "messages": [
                {"role": "user", "content": f"{sample.context}\n{asked.question}"},
                {"role": "assistant", "content": answer(asked, lang)},
            ]
        }


def answer(asked: Asked, lang: str) -> str:
    """All answers where all are wanted, else the first."""
    return LISTED[lang].join(asked.answers) if asked.wanted == "all" else asked.answers[0]
