"""Rows of a corpus as token rows that know which tokens belong together (`text/units/`), found once for a whole run.

A conversation is its turns, each closed with the tokenizer's [SEP], without a chat template; the assistant's are
responses, all others queries. Leaves to the objective what opens a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from handscroll.text import Row, Tokenizer, row_text
from handscroll.text.units import Mark, UnitFinder
from handscroll.training import TokenRow

# Where a text can be cut without changing a token: every tokenizer that splits words from line ends cuts there, too.
LINE_START = re.compile(r"\n(?=\S)")
# Characters between two words on how far it has come.
PIECE = 1 << 14


def unit_row(
    row: Row, tokenizer: Tokenizer, finder: UnitFinder, watch: Callable[[int], None] = lambda done: None, done: int = 0
) -> TokenRow:
    """`watch` is told how many characters are done, `done` of earlier rows among them. ValueError for a row that says
    nothing."""
    sep = tokenizer.role_id("sep")
    assert sep is not None, "whoever needs units has asked for it"
    ids: list[int] = []
    marks = [np.zeros(0, dtype=np.uint8)]
    for text, turn in _turns(row):
        parts = []
        for piece in cut_lines(text, PIECE):
            encoded = tokenizer.encode_with_offsets(piece)
            ids += encoded.ids
            parts.append(finder.token_marks(piece, encoded.offsets))
            done += len(piece)
            watch(done)
        of_turn = np.concatenate(parts)
        if turn is not None and len(of_turn):
            ids.append(sep)
            of_turn = np.append(of_turn, np.uint8(Mark.WORD | Mark.UNIT)) | np.uint8(turn)
            of_turn[0] |= Mark.TURN
        marks.append(of_turn)
    if not ids:
        raise ValueError("this row says nothing: leave it out")
    return TokenRow(np.array(ids, dtype=np.int64), units=np.concatenate(marks))


def cut_lines(text: str, size: int) -> list[str]:
    """The text, cut at line starts where it is longer than `size`, so that notes on a piece of it stay small."""
    pieces, start = [], 0
    while len(text) - start > size and (found := LINE_START.search(text, start + size - 1)):
        pieces.append(text[start : found.end()])
        start = found.end()
    return [*pieces, text[start:]]


def _turns(row: Row) -> list[tuple[str, int | None]]:
    """What is said, with the mark of a response's tokens, or of a query's; None for a text that is no conversation."""
    if "messages" not in row:
        return [(row["prompt"] + row["completion"] if "completion" in row else row_text(row), None)]
    turns: list[tuple[str, int | None]] = []
    for number, message in enumerate(row["messages"], 1):
        if not isinstance(message["content"], str):
            raise ValueError(
                f"content of message {number} is {message['content']!r:.80}, and only text has words: give it as text"
            )
        turns.append((message["content"].strip(), Mark.RESPONSE if message["role"] == "assistant" else 0))
    return turns
