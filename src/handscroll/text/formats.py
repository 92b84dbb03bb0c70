"""Reads files of every format as numbered records, one by one, so that a file may be larger than memory.

txt, md     the text; of a long file pieces that end where lines do
jsonl       one object a line
json        a list of objects, one object, or lines as in jsonl; the only format that is held in memory whole
csv         a header and rows
parquet     rows; needs pyarrow

Each may be compressed with gzip (`.jsonl.gz`). Knows files, encodings and compression, and says exactly
what is wrong with a file that can't be read. A record that can't be read comes as the ValueError that says why, so that
what follows it can still be read. Leaves columns to `columns.py`.
"""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from handscroll.text.columns import COLUMNS

GZIP = ".gz"
# A text file comes in pieces of at most so many bytes.
LONGEST_TEXT = 1 << 26
# Rows of parquet that are taken out of their columns together.
PARQUET_BATCH = 256
BOM = b"\xef\xbb\xbf"
SPACE = re.compile(r"\s*")


class Numbered(NamedTuple):
    """A record with its line in the file, or its row in a parquet file; a text has none (0)."""

    number: int
    content: dict[str, Any] | ValueError


def find_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files that are meant: folders are searched at every depth, in alphabetical order, hidden files left out."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = (file for file in sorted(path.rglob("*")) if file.is_file() and suffix_of(file) in READERS)
            found = [file for file in inside if not any(p.startswith(".") for p in file.relative_to(path).parts)]
            if not found:
                raise ValueError(f"the folder {path} holds no corpus; put files in it that end in {SUFFIXES}")
            files.extend(found)
        elif not path.exists():
            raise ValueError(f"{path} does not exist. Check the path; a file must end in {SUFFIXES}.")
        elif suffix_of(path) not in READERS:
            raise ValueError(f"{path} ends in {path.suffix or 'nothing'!r}; known are {SUFFIXES}. Convert it.")
        else:
            files.append(path)
    if not files:
        raise ValueError(f"no corpus is given. Name at least one file that ends in {SUFFIXES}, or a folder.")
    return files


def suffix_of(file: Path) -> str:
    """`.jsonl` of a.jsonl and of a.JSONL.gz."""
    return Path(file.name.lower().removesuffix(GZIP)).suffix


def read_records(file: Path, raw: IO[bytes]) -> Iterator[Numbered]:
    """The records of an open file. `raw.tell()` says how far it was read. Raises ValueError where it can't go on."""
    is_compressed = file.suffix.lower() == GZIP
    stream: Any = gzip.GzipFile(fileobj=raw) if is_compressed else raw
    try:
        yield from READERS[suffix_of(file)](file, stream)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is no whole gzip file ({error}): fetch or compress it again") from error
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror or error}. Check its permissions.") from error


def _read_text(file: Path, stream: IO[bytes]) -> Iterator[Numbered]:
    rest, done, line = b"", 0, 1
    while block := stream.read(LONGEST_TEXT - len(rest)):
        content = rest + block
        _refuse_utf16(file, content if not done else b"")
        if (zero := content.find(0)) >= 0:
            raise ValueError(f"{file} is a binary file (byte 0x00 at position {done + zero}); give plain text in UTF-8")
        is_last = len(content) < LONGEST_TEXT
        cut = len(content) if is_last else content.rfind(b"\n") + 1 or _between_characters(content)
        text = _decoded(file, content[:cut], done, line)
        # Whoever joins the pieces puts this line end back.
        yield Numbered(0, {"text": text if is_last else text.removesuffix("\n")})
        line += content.count(b"\n", 0, cut)
        rest, done = content[cut:], done + cut
    if rest:
        yield Numbered(0, {"text": _decoded(file, rest, done, line)})


def _between_characters(content: bytes) -> int:
    """The end of the last character that is surely whole."""
    cut = len(content) - 1
    while cut > 1 and content[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut


def _decoded(file: Path, content: bytes, done: int, line: int) -> str:
    try:
        text = content.decode("utf-8" if done else "utf-8-sig")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise ValueError(
            f"{file} is not UTF-8: byte 0x{content[error.start]:02x} at position {done + error.start} (line {line}). "
            f"Convert it, for older Chinese files with: iconv -f GB18030 -t UTF-8 {file}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refuse_utf16(file: Path, content: bytes) -> None:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{file} is UTF-16; it must be UTF-8. Convert it: iconv -f UTF-16 -t UTF-8 {file}")


def _read_jsonl(file: Path, stream: Iterable[bytes]) -> Iterator[Numbered]:
    for number, line in enumerate(stream, 1):
        if number == 1:
            _refuse_utf16(file, line)
            line = line.removeprefix(BOM)
        if line := line.strip():
            yield Numbered(number, _parsed(line))


def _parsed(line: bytes) -> dict[str, Any] | ValueError:
    try:
        record = json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        return ValueError(f"not valid JSON: {error.msg} at column {error.colno}; give one object a line")
    except UnicodeDecodeError as error:
        return ValueError(f"not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line")
    except RecursionError:
        return ValueError("lists within lists, too deep to be read")
    return _object(record, b"\\ud" in line or b"\\uD" in line)


def _object(record: Any, may_be_halved: bool) -> dict[str, Any] | ValueError:
    if isinstance(record, dict):
        try:
            if may_be_halved:
                json.dumps(record, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            return ValueError(f"half of a character, {error.object[error.start]!r}, stands alone: write it as UTF-8")
        return record
    return ValueError(f"a {type(record).__name__}; each row must be an object with columns such as text or messages")


def _read_json(file: Path, stream: IO[bytes]) -> Iterator[Numbered]:
    content = stream.read()
    _refuse_utf16(file, content)
    text = _decoded(file, content, 0, 1)
    may_be_halved = "\\ud" in text or "\\uD" in text
    decoder, position, line, counted = json.JSONDecoder(), _skip(text, 0), 1, 0
    if text[position : position + 1] != "[":
        try:
            record, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError:
            end = 0
        if end and _skip(text, end) == len(text):
            yield Numbered(1, _object(record, may_be_halved))
        else:
            yield from _read_jsonl(file, io.BytesIO(content))
        return
    closing = "["
    while closing != "]":
        position = _skip(text, position + 1)
        if closing == "[" and text[position : position + 1] == "]":
            return
        line, counted = line + text.count("\n", counted, position), position
        try:
            record, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}:{error.lineno}: not valid JSON: {error.msg} at column {error.colno}") from error
        yield Numbered(line, _object(record, may_be_halved))
        position = _skip(text, position)
        closing = text[position : position + 1]
        if closing not in (",", "]") or not closing:
            line += text.count("\n", counted, position)
            raise ValueError(f"{file}:{line}: not valid JSON: the list goes on with {closing!r}, or was cut off here")


def _skip(text: str, position: int) -> int:
    """Where the next character stands that is no white space."""
    found = SPACE.match(text, position)
    return found.end() if found else position


def _read_csv(file: Path, stream: Iterable[bytes]) -> Iterator[Numbered]:
    # Texts are longer than the 128 kB that the library allows by itself.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    rows = csv.reader((line.decode("utf-8").removeprefix("\ufeff") for line in stream), strict=True)
    header: list[str] | None = None
    while True:
        number = rows.line_num + 1
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Numbered(
                number, ValueError(f"not valid csv: {error}; a text with quotes or line ends stands in quotes")
            )
            continue
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{file}:{rows.line_num + 1}: not UTF-8. Convert it: iconv -f GB18030 -t UTF-8 {file}"
            ) from error
        if header is None:
            header = fields
        elif len(fields) == len(header):
            yield Numbered(number, dict(zip(header, fields, strict=True)))
        elif fields:
            names = ", ".join(header)
            yield Numbered(number, ValueError(f"{len(fields)} values for the {len(header)} columns {names}"))


def _read_parquet(file: Path, stream: IO[bytes]) -> Iterator[Numbered]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError(
            f"{file}: reading parquet needs pyarrow. Install it: pip install 'handscroll[parquet]'"
        ) from None
    try:
        opened = parquet.ParquetFile(stream)
        known = [name for name in opened.schema_arrow.names if name in COLUMNS]
        number = 0
        for batch in opened.iter_batches(PARQUET_BATCH, columns=known or None):
            for record in batch.to_pylist():
                number += 1
                yield Numbered(number, record)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} can't be read as parquet ({error}): fetch or write it again") from error


READERS: dict[str, Callable[[Path, Any], Iterator[Numbered]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
SUFFIXES = f"{', '.join(READERS)}, with or without {GZIP}"
