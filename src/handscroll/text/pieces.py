"""A text as its tokens, to look at.

A token that is only some bytes of a character has no text of its own: it is shown as these bytes, <E9 BE>.
"""

from typing import NamedTuple

from handscroll.text.tokenizer import Tokenizer


class Piece(NamedTuple):
    """One token: its id, what it looks like, and the (start, end) characters of the text that it covers."""

    id: int
    text: str
    start: int
    end: int


def pieces(tokenizer: Tokenizer, text: str, *, special: bool = False) -> list[Piece]:
    """The tokens of `text`, in order."""
    ids, offsets = tokenizer.encode_with_offsets(text, special=special)
    names = {id_: name for name, id_ in tokenizer.backend.ids.items()}
    shown = []
    for place, (id_, (start, end)) in enumerate(zip(ids, offsets, strict=True)):
        around = offsets[max(0, place - 1) : place] + offsets[place + 1 : place + 2]
        is_part = any(first < end and start < last for first, last in around)
        name = names[id_]
        if name.startswith("<0x"):
            name = f"<{name[3:5]}>"
        elif is_part and set(name) <= _BYTES.keys():
            name = f"<{bytes(_BYTES[character] for character in name).hex(' ').upper()}>"
        elif not is_part:
            name = text[start:end]
        shown.append(Piece(id_, name, start, end))
    return shown


def _byte_alphabet() -> dict[str, int]:
    """How byte-level BPE writes a byte as a character: the printable ones as themselves, others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_alphabet()
