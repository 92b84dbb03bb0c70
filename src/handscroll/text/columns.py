"""From the columns of a row to one of the four kinds that training and inspection understand.

    text         {"text": str}
    completion   {"prompt": str, "completion": str}: plain text, of which the completion is learnt
    messages     {"messages": [...]}, and {"given": n} where the first n of them are only read
    preference   {"prompt", "chosen", "rejected"}: three texts, or three lists of messages

Knows the layouts that data sets come in: TRL's columns (https://huggingface.co/docs/trl/dataset_formats), Alpaca's
(https://github.com/tatsu-lab/stanford_alpaca) and ShareGPT's (https://github.com/lm-sys/FastChat). Which one a row has
is seen from its columns alone; columns that no layout names, such as an id, are left out. Leaves files and lines to
`formats.py` and tokens to others.
"""

from collections.abc import Callable, Mapping
from typing import Any

Row = dict[str, Any]
Messages = list[dict[str, Any]]

# The speakers of ShareGPT files as they occur, and the roles that they stand for.
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}
KINDS = ("text", "completion", "messages", "preference")


def normalised(record: Mapping[str, Any]) -> Row:
    """The record as one of the four kinds. Raises ValueError for unknown columns, and for values of another type."""
    for columns, reading in LAYOUTS.items():
        if all(record.get(column) is not None for column in columns):
            return reading(record)
    found = ", ".join(repr(column) for column, value in record.items() if value is not None) or "none"
    known = "; ".join(", ".join(columns) for columns in LAYOUTS)
    raise ValueError(f"the columns are {found}; known are: {known}. Rename the columns, or add what is missing.")


def kind_of(row: Row) -> str:
    """Which of `KINDS` a normalised row is."""
    if "chosen" in row:
        return "preference"
    return next(kind for kind in KINDS if kind in row)


def row_text(row: Row) -> str:
    """All that a row says, as plain text: contents of messages a line each; of a preference what was chosen."""
    if "text" in row:
        return str(row["text"])
    if "messages" in row:
        return _contents(row["messages"])
    answer = row["chosen"] if "chosen" in row else row["completion"]
    if isinstance(answer, str):
        return row["prompt"] + answer if "completion" in row else f"{row['prompt']}\n{answer}"
    return _contents(row["prompt"] + answer)


def is_blank(row: Row) -> bool:
    return "text" in row and not row["text"].strip()


def _contents(messages: Messages) -> str:
    return "\n".join(message["content"] for message in messages if isinstance(message["content"], str))


def _text(record: Mapping[str, Any]) -> Row:
    return {"text": _string(record, "text")}


def _chat(record: Mapping[str, Any]) -> Row:
    return {"messages": _messages(record, "messages")}


def _completion(record: Mapping[str, Any]) -> Row:
    if isinstance(record.get("label"), bool):
        raise ValueError(
            "prompt, completion and label are judgements of single answers, which no objective learns from: "
            "keep the rows whose label is true and drop the column, or make pairs of chosen and rejected"
        )
    if isinstance(record["prompt"], str) and isinstance(record["completion"], str):
        if not record["completion"].strip():
            raise ValueError("completion is blank: there is nothing to learn")
        return {"prompt": record["prompt"], "completion": record["completion"]}
    asked = _messages(record, "prompt")
    return {"messages": asked + _messages(record, "completion"), "given": len(asked)}


def _preference(record: Mapping[str, Any]) -> Row:
    """TRL's explicit and implicit prompts: without one, what chosen and rejected have in common is the prompt."""
    chosen, rejected, prompt = record["chosen"], record["rejected"], record.get("prompt")
    is_plain = isinstance(chosen, str) and isinstance(rejected, str)
    if not is_plain:
        chosen, rejected = _messages(record, "chosen"), _messages(record, "rejected")
        if isinstance(prompt, str):
            # Both answers repeat the prompt, or neither does.
            prompt = None if chosen[0] == rejected[0] else [{"role": "user", "content": prompt}]
        elif prompt is not None:
            prompt = _messages(record, "prompt")
    elif prompt is not None:
        prompt = _string(record, "prompt")
    if prompt is None:
        shared = _shared(chosen, rejected)
        # The space before the first word that differs belongs to that word.
        shared -= is_plain and chosen[:shared].endswith(" ")
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if not prompt:
        raise ValueError("chosen and rejected begin differently and there is no prompt: add the column prompt")
    if chosen == rejected or not chosen or not rejected:
        raise ValueError("chosen and rejected are the same, or one continues the other: there is nothing to prefer")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _alpaca(record: Mapping[str, Any]) -> Row:
    asked, given = _string(record, "instruction"), _string({"input": record.get("input") or ""}, "input")
    if given.strip():
        asked = f"{asked}\n\n{given}"
    answer = _string(record, "output")
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def _sharegpt(record: Mapping[str, Any]) -> Row:
    turns = record["conversations"]
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"conversations is {turns!r:.80}; it must be a list of at least one turn")
    if isinstance(turns[0], dict) and "role" in turns[0]:
        return {"messages": _messages(record, "conversations")}
    messages = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise ValueError(f"turn {number} of conversations is {turn!r:.80}; it must have 'from' and 'value'")
        if turn.get("from") not in SPEAKERS:
            known = ", ".join(SPEAKERS)
            raise ValueError(f"turn {number} of conversations is from {turn.get('from')!r}; known are {known}")
        messages.append({"role": SPEAKERS[turn["from"]], "content": turn["value"]})
    return {"messages": messages}


def _string(record: Mapping[str, Any], column: str) -> str:
    value = record[column]
    if not isinstance(value, str):
        raise ValueError(f"{column} is {value!r:.80}; it must be a string")
    return value


def _messages(record: Mapping[str, Any], column: str) -> Messages:
    messages = record[column]
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{column} is {messages!r:.80}; it must be a list of at least one message")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise ValueError(f"message {number} of {column} is {message!r:.80}; it must have 'role' and 'content'")
    return messages


def _shared(first: str | Messages, second: str | Messages) -> int:
    """How long the common beginning is."""
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length


# The first layout whose columns a row has is the one; `text` is last, for some files hold a rendered text besides.
LAYOUTS: Mapping[tuple[str, ...], Callable[[Mapping[str, Any]], Row]] = {
    ("messages",): _chat,
    ("chosen", "rejected"): _preference,
    ("prompt", "completion"): _completion,
    ("conversations",): _sharegpt,
    ("instruction", "output"): _alpaca,
    ("text",): _text,
}
# Every column that a layout looks at.
COLUMNS = frozenset(column for columns in LAYOUTS for column in columns) | {"prompt", "input", "label"}
