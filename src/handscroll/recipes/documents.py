"""From rows of a corpus to token rows: what a document begins and ends with, and what of it is learnt.

Knows tokenizers and objectives' names. Leaves files to `text/formats.py` and windows to the training room.
"""

from __future__ import annotations

from collections.abc import Sequence

from handscroll.text import Row, Tokenizer, chat_tokens
from handscroll.training import TokenRow


def document_rows(rows: Sequence[Row], tokenizer: Tokenizer, objective: str) -> list[TokenRow]:
    """One token row per text (opened as the tokenizer says, closed by its end token) or conversation.

    Under "sft" the mask of a conversation comes with it. Raises ValueError for a conversation that the chat template
    refuses, and under "sft" for a text, and for a conversation in which the assistant says nothing.
    """
    texts = [row["text"] for row in rows if "text" in row]
    begin, end = tokenizer.opening_ids, [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    encoded = iter(tokenizer.encode_batch(texts))
    return [
        _conversation(number, row, tokenizer, objective)
        if "messages" in row
        else _text(number, begin + next(encoded) + end, objective)
        for number, row in enumerate(rows, 1)
    ]


def spoken(row: Row) -> str:
    """The text of a row; of a conversation the contents, a line each."""
    if "text" in row:
        return str(row["text"])
    return "\n".join(message["content"] for message in row["messages"] if isinstance(message["content"], str))


def _text(number: int, ids: list[int], objective: str) -> TokenRow:
    if objective == "sft":
        raise ValueError(f"row {number} is plain text, and sft learns answers: give messages, or objective: causal_lm")
    return TokenRow(ids)


def _conversation(number: int, row: Row, tokenizer: Tokenizer, objective: str) -> TokenRow:
    try:
        ids, mask = chat_tokens(tokenizer, row["messages"])
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from error
    if objective != "sft":
        return TokenRow(ids)
    if not any(mask[1:]):
        raise ValueError(f"row {number}: the assistant says nothing in this conversation: leave it out for sft")
    return TokenRow(ids, [bool(value) for value in mask])
