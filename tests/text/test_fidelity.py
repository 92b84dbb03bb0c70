"""Real books through every kind of tokenizer; pieces of them, as tokens to look at."""

from pathlib import Path

import pytest

from handscroll.text import Tokenizer
from handscroll.text.pieces import pieces

BOOKS = Path(__file__).parents[3] / "shared" / "data" / "text"


@pytest.mark.parametrize("han", ["merged", "isolated"])
@pytest.mark.parametrize("name", ["en_pride_and_prejudice.txt", "zh_sanguoyanyi.txt", "zh_tang_poetry.jsonl"])
def test_byte_level_bpe_gives_a_book_back(name: str, han: str, merged: Tokenizer, isolated: Tokenizer) -> None:
    if not (BOOKS / name).is_file():
        pytest.skip(f"{name} is not in shared/data/text beside the repository")
    tokenizer = merged if han == "merged" else isolated
    with (BOOKS / name).open(encoding="utf-8") as book:
        text = book.read(60_000)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_pieces_are_the_text_and_parts_of_characters_their_bytes(merged: Tokenizer) -> None:
    text = "Karen  met 王伟\n龘! <|end|>"
    shown = pieces(merged, text)
    assert [piece.id for piece in shown] == merged.encode(text)
    assert "".join(piece.text for piece in shown).startswith("Karen  met ")
    assert sum(piece.text.startswith("<") for piece in shown if text[piece.start : piece.end] == "龘") > 1
    parts = [bytes.fromhex(p.text[1:-1]) if p.text != text[p.start : p.end] else p.text.encode() for p in shown]
    assert b"".join(parts).decode() == text
    assert pieces(merged, "<|end|>", special=True)[0].text == "<|end|>"
    assert pieces(merged, "") == []
