"""From rows of a corpus to token rows, one by one: what a document begins and ends with, and what of it is learnt.

Knows tokenizers and objectives' names. Leaves files to `text/corpus.py` and windows to the training room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from handscroll.recipes.unit_rows import cut_lines, unit_row
from handscroll.text import Corpus, Located, Row, Tokenizer, chat_tokens, kind_of, row_text
from handscroll.text.units import UnitFinder
from handscroll.training import OBJECTIVES, TokenRow

# Characters that are encoded together: enough to keep all cores busy, few beside a training run's memory.
BATCH = 1 << 19
# A longer text is encoded in pieces.
PIECE = 1 << 17
# Finding words takes ten times as long: progress is told more often.
SLOW_BATCH = 1 << 16
LEARNS = {
    "causal_lm": "text, completion, messages".split(", "),
    "sft": "completion, messages".split(", "),
    "masked_lm": "text, completion, messages".split(", "),
    "prefix_lm": "text, completion, messages".split(", "),
    "glm": "text, completion, messages".split(", "),
    "ernie": "text, completion, messages".split(", "),
}
# Objectives that go by the mask of a completion, or of what the assistant says.
MASKED = ("sft", "prefix_lm")
WAY_OUT = {
    "text": "give messages or prompt and completion, or objective: causal_lm",
    "preference": "no objective learns from pairs yet; give messages, or leave these rows out",
}


def token_rows(
    corpus: Corpus,
    tokenizer: Tokenizer,
    objective: str,
    watch: Callable[[float], None] = lambda share: None,
    finder: UnitFinder | None = None,
) -> Iterator[TokenRow]:
    """One token row per row of the corpus, in order; `watch` is told which share of what was read last is tokenized.

    Texts are opened as the tokenizer says and closed by its end token, but for objectives that do so themselves. Under
    those in `MASKED` completions and conversations come with their mask. A row that can't be learnt is an error that
    names its place, or is counted where the corpus skips bad rows: one of another kind than the objective learns from,
    one that the chat template refuses, and one in whose mask nothing is learnt. With `finder`
    rows have their units (`unit_rows.py`). Raises ValueError if no row is left.
    """
    is_empty = True
    for batch in batches(corpus, BATCH if finder is None else SLOW_BATCH):
        for _, row in tokenised(batch, tokenizer, objective, corpus.fail, finder, watch):
            is_empty = False
            yield row
        watch(1.0)
    if is_empty:
        corpus.nothing(f"row that {objective} learns from")


def batches(corpus: Corpus, at_once: int = BATCH) -> Iterator[list[Located]]:
    """The rows in groups of about `at_once` characters of text; other rows count as much as a short text."""
    batch: list[Located] = []
    size = 0
    for located in corpus:
        batch.append(located)
        size += len(located.row.get("text", "")) + 1024
        if size >= at_once:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def tokenised(
    batch: Sequence[Located],
    tokenizer: Tokenizer,
    objective: str,
    fail: Callable[[str, ValueError], None],
    finder: UnitFinder | None = None,
    watch: Callable[[float], None] = lambda share: None,
) -> Iterator[tuple[Located, TokenRow]]:
    """The rows with their tokens; `fail` takes place and mistake of one that can't be learnt, which is left out."""
    if finder is not None:
        yield from _with_units(batch, tokenizer, objective, fail, finder, watch)
        return
    texts = iter(_encoded([located.row["text"] for located in batch if _is_learnt_text(located, objective)], tokenizer))
    for located in batch:
        try:
            ids = next(texts) if _is_learnt_text(located, objective) else None
            row = _token_row(located.row, ids, tokenizer, objective)
        except ValueError as error:
            fail(located.place, error)
        else:
            yield located, row


def _with_units(
    batch: Sequence[Located],
    tokenizer: Tokenizer,
    objective: str,
    fail: Callable[[str, ValueError], None],
    finder: UnitFinder,
    watch: Callable[[float], None],
) -> Iterator[tuple[Located, TokenRow]]:
    sizes = [len(row_text(located.row)) for located in batch]
    done, total = 0, max(1, sum(sizes))
    for located, size in zip(batch, sizes, strict=True):
        try:
            check_kind(located.row, objective)
            row = unit_row(located.row, tokenizer, finder, lambda far: watch(far / total), done)
        except ValueError as error:
            fail(located.place, error)
        else:
            yield located, row
        done += size


def _is_learnt_text(located: Located, objective: str) -> bool:
    return "text" in located.row and "text" in LEARNS[objective]


def _encoded(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of each text, all encoded together."""
    pieces = [cut_lines(text, PIECE) for text in texts]
    encoded = iter(tokenizer.encode_batch([piece for each in pieces for piece in each]))
    return [[token for _ in each for token in next(encoded)] for each in pieces]


def _token_row(row: Row, ids: list[int] | None, tokenizer: Tokenizer, objective: str) -> TokenRow:
    kind = check_kind(row, objective)
    is_bare = OBJECTIVES[objective].needs.room > 0
    begin, end = frame(tokenizer, is_bare)
    if ids is not None:
        return TokenRow(np.array([*begin, *ids, *end], dtype=np.int64))
    if kind == "completion":
        tokens, mask = completion_tokens(row, tokenizer, is_bare)
    else:
        tokens, mask = chat_tokens(tokenizer, row["messages"], given=row.get("given", 0))
    if not tokens:
        raise ValueError("the chat template makes no text of this conversation: leave it out, or change the template")
    if objective not in MASKED:
        return TokenRow(np.array(tokens, dtype=np.int64))
    if not any(mask[1:]):
        raise ValueError(f"the assistant says nothing in this conversation: leave it out for {objective}")
    return TokenRow(np.array(tokens, dtype=np.int64), np.array(mask, dtype=bool))


def check_kind(row: Row, objective: str) -> str:
    """The row's kind. ValueError for one that the objective doesn't learn from."""
    kind = kind_of(row)
    if kind not in LEARNS[objective]:
        known = ", ".join(LEARNS[objective])
        raise ValueError(f"a row of kind {kind}, and {objective} learns from {known}: {WAY_OUT[kind]}")
    return kind


def frame(tokenizer: Tokenizer, is_bare: bool = False) -> tuple[list[int], list[int]]:
    """What a text is opened and closed with."""
    if is_bare:
        return [], []
    return tokenizer.opening_ids, [] if tokenizer.eos_id is None else [tokenizer.eos_id]


def completion_tokens(row: Row, tokenizer: Tokenizer, is_bare: bool = False) -> tuple[list[int], list[int]]:
    """A prompt and its completion as one text, the mask over what completes it, end token included."""
    begin, end = frame(tokenizer, is_bare)
    ids, offsets = tokenizer.encode_with_offsets(row["prompt"] + row["completion"])
    border = len(row["prompt"])
    mask = [int(last > border) for _, last in offsets]
    return [*begin, *ids, *end], [0] * len(begin) + mask + [1] * len(end)
