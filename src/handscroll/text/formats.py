"""Reads corpora: txt, md and jsonl files, and folders of them, as rows {"text": ...} or {"messages": [...]}.

Knows files, encodings and columns, and says exactly what is wrong with a file that can't be used. The columns are
those of TRL (https://huggingface.co/docs/trl/dataset_formats); a row's kind is seen from its columns. Leaves to
others what is done with rows.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TEXT_SUFFIXES = (".txt", ".md")
ROW_SUFFIXES = (".jsonl",)
SUFFIXES = TEXT_SUFFIXES + ROW_SUFFIXES
COLUMNS = ("text", "messages")

Row = dict[str, Any]
Paths = str | Path | Iterable[str | Path]


def read_texts(paths: Paths) -> list[str]:
    """The texts of all files, in order; of a conversation the contents, a line each."""
    return [row["text"] if "text" in row else _spoken(row["messages"]) for row in read_rows(paths)]


def read_rows(paths: Paths) -> list[Row]:
    """The rows of all files, in order. A txt or md file is one row; blank rows are left out.

    Raises ValueError for anything that can't be read, and when no text is left at all.
    """
    files = find_files([paths] if isinstance(paths, str | Path) else paths)
    rows = [row for file in files for row in iterate_rows(file)]
    if not rows:
        raise ValueError(f"the corpus is empty: no text in {', '.join(map(str, files))}. Give files that hold text.")
    return rows


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files that are meant: folders are searched at every depth, in alphabetical order, hidden files left out."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = (file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix.lower() in SUFFIXES)
            found = [file for file in inside if not any(p.startswith(".") for p in file.relative_to(path).parts)]
            if not found:
                raise ValueError(
                    f"the folder {path} holds no corpus; put files in it that end in {', '.join(SUFFIXES)}"
                )
            files.extend(found)
        elif not path.exists():
            raise ValueError(f"{path} does not exist. Check the path; a file must end in {', '.join(SUFFIXES)}.")
        elif path.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"{path} ends in {path.suffix or 'nothing'!r}; known are {', '.join(SUFFIXES)}. Convert it."
            )
        else:
            files.append(path)
    if not files:
        raise ValueError(f"no corpus is given. Name at least one file that ends in {', '.join(SUFFIXES)}, or a folder.")
    return files


def iterate_rows(file: Path) -> Iterator[Row]:
    """The rows of one file, one by one."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror}. Check its permissions.") from error
    text = _decode(file, content)
    if file.suffix.lower() in TEXT_SUFFIXES:
        if text.strip():
            yield {"text": text}
        return
    # Not splitlines: JSON strings may hold line separators such as U+2028 as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{file}:{number}"
            row = _checked(place, _parse(place, line))
            if "messages" in row or row["text"].strip():
                yield row


def _decode(file: Path, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{file} is UTF-16; it must be UTF-8. Convert it: iconv -f UTF-16 -t UTF-8 {file}")
    if (zero := content.find(0)) >= 0:
        raise ValueError(f"{file} is a binary file (byte 0x00 at position {zero}); give plain text in UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file} is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start} (line {line}). "
            f"Convert it, for older Chinese files with: iconv -f GB18030 -t UTF-8 {file}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parse(place: str, line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place}: not valid JSON: {error.msg} at column {error.colno}; give one object a line"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a {type(row).__name__}; each line must be an object with {' or '.join(COLUMNS)}")
    return row


def _checked(place: str, row: Row) -> Row:
    """The row's one known column; others, such as an id, are left out."""
    if "messages" in row:
        return {"messages": _messages(place, row["messages"])}
    if "text" in row:
        if not isinstance(row["text"], str):
            raise ValueError(f"{place}: text is {row['text']!r:.80}; it must be a string")
        return {"text": row["text"]}
    raise ValueError(
        f"{place}: the columns are {', '.join(map(repr, row)) or 'none'}; known are {', '.join(COLUMNS)}. Rename one."
    )


def _messages(place: str, messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{place}: messages is {messages!r:.80}; it must be a list of at least one message")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise ValueError(f"{place}: message {number} is {message!r:.80}; it must have 'role' and 'content'")
    return messages


def _spoken(messages: list[dict[str, Any]]) -> str:
    return "\n".join(message["content"] for message in messages if isinstance(message["content"], str))
