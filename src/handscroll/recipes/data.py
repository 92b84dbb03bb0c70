"""The data section of a recipe: parts of a corpus as token rows, written once to the run's folder and read from there.

Knows what makes written tokens those of the same data, and how far reading is. Leaves rows to `documents.py` and the
files of tokens to the training room.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from handscroll.recipes.documents import token_rows
from handscroll.recipes.events import Advance, Said
from handscroll.recipes.schema import Data
from handscroll.text import Corpus, Skipped, Tokenizer, row_text
from handscroll.text.units import UnitFinder
from handscroll.training import TokenFile, TokenList, TokenRow, TokenRows

Watch = Callable[[Advance | Said], None]
KILOBYTE = 1000


def unwatched(event: Advance | Said) -> None:
    """Nobody looks."""


def read_data(
    data: Data,
    tokenizer: Tokenizer,
    objective: str,
    folder: Path | None,
    watch: Watch = unwatched,
    finder: UnitFinder | None = None,
) -> list[TokenRows]:
    """The token rows of each part: in `folder`, a subfolder each, or in memory where there is none.

    What was written there before is taken again if files, tokenizer, objective, `skip_bad` and `finder`'s dictionary
    are the same. Bad rows that were left out are told to `watch`. Raises ValueError for a mistake in the data.
    """
    read: list[TokenRows] = []
    for number, part in enumerate(data.parts):
        corpus = Corpus(part.files, Skipped() if data.skip_bad else None)
        if folder is None:
            read.append(TokenList(_told(corpus, tokenizer, objective, watch, finder)))
            skipped = corpus.skipped or Skipped()
        else:
            rows = _on_disk(folder / str(number), corpus, tokenizer, objective, watch, finder)
            read.append(rows)
            skipped = Skipped(**rows.about["notes"])
        if skipped.count:
            watch(Said(skipped.describe()))
    return read


def read_plainly(data: Data, watch: Watch = unwatched) -> Iterator[str]:
    """The text of every row of all parts, to learn a vocabulary from."""
    for part in data.parts:
        corpus = Corpus(part.files, Skipped() if data.skip_bad else None)
        for number, located in enumerate(corpus):
            if not number % 1024:
                watch(_far(corpus, "reading for the vocabulary"))
            yield row_text(located.row)
        watch(_far(corpus, "reading for the vocabulary"))


def check_enough(data: Sequence[TokenRows], window: int) -> None:
    """Raises ValueError where a part is shorter than one window."""
    for rows in data:
        tokens = int(rows.lengths_N.sum())
        if tokens < window:
            raise ValueError(
                f"the corpus has {tokens} tokens, fewer than one window of {window}: "
                "give more text, or a smaller window"
            )


@contextlib.contextmanager
def clearing(out: Path) -> Iterator[None]:
    """Takes a new run's folder away again if the block fails: nothing but tokens can be in it so far."""
    is_new = not out.exists()
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(out, ignore_errors=True)
        raise


def _on_disk(
    folder: Path, corpus: Corpus, tokenizer: Tokenizer, objective: str, watch: Watch, finder: UnitFinder | None
) -> TokenFile:
    key = _key(corpus, tokenizer, objective, finder)
    found = TokenFile.opened(folder, key)
    if found is not None:
        return found
    rows = _told(corpus, tokenizer, objective, watch, finder)
    return TokenFile.write(folder, rows, tokenizer.vocab_size, key, lambda: asdict(corpus.skipped or Skipped()))


def _told(
    corpus: Corpus, tokenizer: Tokenizer, objective: str, watch: Watch, finder: UnitFinder | None
) -> Iterator[TokenRow]:
    task = "tokenizing" if finder is None else "tokenizing and finding words"
    before = 0

    def far(share: float) -> None:
        nonlocal before
        watch(_far(corpus, task, before + share * (corpus.read - before)))
        before = corpus.read if share == 1 else before

    yield from token_rows(corpus, tokenizer, objective, far, finder)


def _far(corpus: Corpus, task: str, done: float | None = None) -> Advance:
    return Advance(task, (corpus.read if done is None else done) / KILOBYTE, corpus.size / KILOBYTE, "kB")


def _key(corpus: Corpus, tokenizer: Tokenizer, objective: str, finder: UnitFinder | None) -> str:
    """What the tokens depend on. A file is known by its path, size and time; its content is in the rows' digest."""
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in corpus.files]
    content = [files, tokenizer.fingerprint, tokenizer.config, objective, corpus.skipped is not None]
    content += [] if finder is None else [finder.fingerprint]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
