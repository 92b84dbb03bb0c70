"""Corpora that can be read, and the message for each that can't."""

import json
from pathlib import Path

import pytest

from handscroll.text import read_rows, read_texts

CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "你好"}]}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_all_kinds_of_files(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "\ufeffone\r\ntwo")
    write(tmp_path / "b" / "c.MD", "# 三")
    write(tmp_path / "b" / "d.jsonl", json.dumps({"text": "four \u2028", "id": 7}, ensure_ascii=False) + "\n\n")
    write(tmp_path / "e.jsonl", json.dumps(CHAT) + "\n" + json.dumps({"text": "  "}))
    write(tmp_path / ".hidden" / "f.txt", "no")
    write(tmp_path / "g.png", b"\x89PNG\x00")
    write(tmp_path / "h.txt", " \n")
    rows = [{"text": "one\ntwo"}, {"text": "# 三"}, {"text": "four \u2028"}, CHAT]
    assert read_rows(tmp_path) == rows
    assert read_texts([tmp_path / "e.jsonl", str(tmp_path / "a.txt")]) == ["hi\n你好", "one\ntwo"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "corpus is empty"),
        ("a.jsonl", "\n\n", "corpus is empty"),
        ("a.txt", b"abc\x00def", "binary file .*position 3"),
        ("a.txt", "青州".encode("gb18030"), r"not UTF-8: byte 0xc7 at position 0 \(line 1\)"),
        ("a.txt", b"fine\nfine\nbad \xff", r"byte 0xff at position 14 \(line 3\)"),
        ("a.txt", "text".encode("utf-16"), "UTF-16"),
        ("a.jsonl", '{"text": "a"}\n{"text": ', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", '["text"]', r"a\.jsonl:1: a list"),
        ("a.jsonl", '{"body": "a", "id": 1}', r"columns are 'body', 'id'; known are text, messages"),
        ("a.jsonl", '{"text": 5}', "text is 5"),
        ("a.jsonl", '{"messages": []}', "at least one message"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', "message 1 .*'role' and 'content'"),
        ("a.pdf", "%PDF", r"ends in '\.pdf'; known are \.txt, \.md, \.jsonl"),
        ("folder/a.pdf", "%PDF", "holds no corpus"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    file = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        read_rows(file if file.parent == tmp_path else file.parent)


def test_missing_file_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.txt does not exist"):
        read_rows(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="no corpus is given"):
        read_rows([])
