"""Files of every format, and the message for each that can't be read."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from handscroll.text import Corpus, formats, read_rows, read_texts

CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "你好"}]}
LONG = "long " * 40_000


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_all_kinds_of_files(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "\ufeffone\r\ntwo")
    write(tmp_path / "b" / "c.MD", "# 三")
    write(tmp_path / "b" / "d.jsonl", json.dumps({"text": "four \u2028", "id": 7}, ensure_ascii=False) + "\n\n")
    write(tmp_path / "e.jsonl", "\ufeff" + json.dumps(CHAT) + "\r\n" + json.dumps({"text": "  "}))
    write(tmp_path / ".hidden" / "f.txt", "no")
    write(tmp_path / "g.png", b"\x89PNG\x00")
    write(tmp_path / "h.txt", " \n")
    write(tmp_path / "i.jsonl.GZ", gzip.compress(b'{"text": "five"}\n{"text": "six"}'))
    rows = [{"text": "one\ntwo"}, {"text": "# 三"}, {"text": "four \u2028"}, CHAT, {"text": "five"}, {"text": "six"}]
    assert read_rows(tmp_path) == rows
    assert read_texts([tmp_path / "e.jsonl", str(tmp_path / "a.txt")]) == ["hi\n你好", "one\ntwo"]


ROWS: list[dict[str, Any]] = [{"text": 'one, "1"\nline'}, {"text": LONG}, {"text": "三"}]


def as_csv(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["id", "text"])
        table.writeheader()
        table.writerows({"id": number, **row} for number, row in enumerate(ROWS))


WRITERS = {
    "rows.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "list.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "lines.json": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "table.csv": as_csv,
    "table.parquet": lambda path: parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in ROWS).encode())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    corpus = Corpus(tmp_path / name)
    assert [located.row for located in corpus] == ROWS
    assert corpus.read == corpus.size > 0


def test_messages_in_parquet_and_one_object_of_json(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_pylist([{**CHAT, "text": None}, {"text": "x"}]), tmp_path / "chats.parquet")
    write(tmp_path / "one.json", json.dumps(CHAT, indent=2))
    assert read_rows([tmp_path / "chats.parquet", tmp_path / "one.json"]) == [CHAT, {"text": "x"}, CHAT]


@pytest.mark.parametrize("text", ["one\ntwo 三\n\nfour" * 9, "没有行尾" * 30, "a\r\nb\n" * 20 + "end\n"])
def test_a_long_text_comes_in_pieces_that_join_to_it(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "LONGEST_TEXT", 32)
    pieces = read_texts(write(tmp_path / "a.txt", text))
    assert len(pieces) > 3
    joint = "\n" if "\n" in text else ""
    assert joint.join(pieces) == text.replace("\r\n", "\n")
    with pytest.raises(ValueError, match=r"not UTF-8: byte 0xff at position 100 \(line 6\)"):
        read_rows(write(tmp_path / "b.txt", b"twenty bytes a line\n" * 5 + b"\xff"))


PARQUET = b"PAR1" + bytes(40)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "corpus is empty"),
        ("a.jsonl", "\n\n", "corpus is empty"),
        ("a.csv", "text\n", "corpus is empty"),
        ("a.json", "[]", "corpus is empty"),
        ("a.json", "", "corpus is empty"),
        ("a.txt", b"abc\x00def", "binary file .*position 3"),
        ("a.txt", "青州".encode("gb18030"), r"not UTF-8: byte 0xc7 at position 0 \(line 1\)"),
        ("a.txt", b"fine\nfine\nbad \xff", r"byte 0xff at position 14 \(line 3\)"),
        ("a.txt", "text".encode("utf-16"), "UTF-16"),
        ("a.jsonl", "text".encode("utf-16"), "UTF-16"),
        ("a.jsonl", '{"text": "a"}\n{"text": ', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "\xff"}', r"a\.jsonl:3: not UTF-8: byte 0xff at byte 11"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: lists within lists"),
        ("a.jsonl", '["text"]', r"a\.jsonl:1: a list"),
        ("a.jsonl", '{"body": "a", "id": 1}', r"a\.jsonl:1: the columns are 'body', 'id'; known are: messages; "),
        ("a.json", '[\n{"text": "a"},\n{"body": "a"}]', r"a\.json:3: the columns are 'body'"),
        ("a.json", '[{"text": "a"},\n{"text": "b"', r"a\.json:2: not valid JSON"),
        ("a.json", '[{"text": "a"},\n{"text": "b"}', r"a\.json:2: not valid JSON: .*cut off here"),
        ("a.json", '[{"text": "a"} {"text": "b"}]', r"a\.json:1: not valid JSON: the list goes on with '\{'"),
        ("a.json", '{"data": []}', r"a\.json:1: the columns are 'data'"),
        ("a.csv", "id,body\n1,a\n", r"a\.csv:2: the columns are 'id', 'body'; known are"),
        ("a.csv", "id,text\n1,a\n2\n", r"a\.csv:3: 1 values for the 2 columns id, text"),
        ("a.csv", 'text\nfine\n"never closed\nmore\n', r"a\.csv:3: not valid csv: unexpected end of data"),
        ("a.csv", "text\n青州\n".encode("gb18030"), r"a\.csv:2: not UTF-8"),
        ("a.parquet", PARQUET, r"a\.parquet can't be read as parquet"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}' * 99)[:30], r"a\.jsonl\.gz is no whole gzip file"),
        ("a.jsonl.gz", b'{"text": "a"}', r"a\.jsonl\.gz is no whole gzip file"),
        ("a.pdf", "%PDF", r"ends in '\.pdf'; known are \.txt, \.md, \.jsonl, \.json, \.csv, \.parquet"),
        ("folder/a.pdf", "%PDF", "holds no corpus"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    file = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        read_rows(file if file.parent == tmp_path else file.parent)


def test_a_truncated_parquet(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    parquet.write_table(pyarrow.table({"text": [str(number) * 9 for number in range(2000)]}), whole)
    cut = write(tmp_path / "cut.parquet", whole.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"cut\.parquet can't be read as parquet"):
        read_rows(cut)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"needs pyarrow. Install it: pip install 'handscroll\[parquet\]'"):
        read_rows(write(tmp_path / "a.parquet", PARQUET))


def test_missing_file_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.txt does not exist"):
        read_rows(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="no corpus is given"):
        read_rows([])
