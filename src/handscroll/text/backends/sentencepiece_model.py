"""A tokenizer.model of older Llama, Baichuan or ChatGLM, run by `sentencepiece` (https://arxiv.org/abs/1808.06226).

It is wrapped, not converted to a tokenizer.json: merges that are worked out from such a file break some ties in another
way, and every id must be the one that the checkpoint was trained with. `tokenizer.model` is saved as it came.

The library never finds a control token in a text. Where they are to be obeyed, the text is cut at their names, and each
piece between them is encoded as a text of its own, with the space that the model puts before a text. Entries that a
model calls user-defined are found in any text, as its maker wished.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import sentencepiece

from handscroll.text.backends import Encoding

# The names behind the vocabulary of ChatGLM's tokenizer.model; its folders leave them to Python code, which isn't run.
CHATGLM_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
CHATGLM_OPENING = ["[gMASK]", "sop"]


class SentencePieceBackend:
    """`model` is the content of a tokenizer.model; `added` are entries beside it, those in `special` control tokens."""

    def __init__(self, model: bytes, added: Mapping[str, int], special: Collection[str]) -> None:
        self._model, self._added, self._special = model, dict(added), frozenset(special)
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        count = self._processor.get_piece_size()
        pieces = [self._processor.id_to_piece(id_) for id_ in range(count)]
        self._names: dict[int, str] = dict(enumerate(pieces)) | {id_: name for name, id_ in added.items()}
        self.ids: dict[str, int] = {name: id_ for id_, name in self._names.items()}
        control = {name for id_, name in enumerate(pieces) if self._processor.is_control(id_)}
        self.special_tokens: dict[str, int] = {
            name: id_ for id_, name in sorted(self._names.items()) if name in control | self._special
        }
        self._special_ids = frozenset(self.special_tokens.values())
        # What `sentencepiece` itself has no text for, or doesn't know.
        self._by_name = self._special_ids | {id_ for id_ in self._names if id_ >= count}
        plain = [name for name in added if name not in self._special]
        self._cuts = {False: _any_of(plain), True: _any_of([*plain, *self.special_tokens])}

    @cached_property
    def kind(self) -> str:
        has_bytes = any(self._processor.is_byte(id_) for id_ in range(self._processor.get_piece_size()))
        return "sentencepiece, bytes for what it doesn't know" if has_bytes else "sentencepiece"

    @property
    def named(self) -> dict[str, str]:
        """The control tokens that the model itself names, as a config would."""
        processor = self._processor
        ids = {"bos": processor.bos_id(), "eos": processor.eos_id(), "pad": processor.pad_id()}
        names = {f"{key}_token": self._names[id_] for key, id_ in ids.items() if id_ >= 0}
        return {**names, "unk_token": self._names[processor.unk_id()]}

    def encode(self, text: str, special: bool) -> list[int]:
        return self.encode_batch([text], special)[0]

    def encode_batch(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        if self._cuts[special] is None:
            ids: list[list[int]] = self._processor.encode(list(map(_valid, texts)), out_type=int)
            return ids
        return [self.encode_with_offsets(text, special).ids for text in texts]

    def encode_with_offsets(self, text: str, special: bool) -> Encoding:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, piece, name_id in self._pieces(_valid(text), special):
            if name_id is not None:
                ids.append(name_id)
                offsets.append((start, start + len(piece)))
                continue
            encoded = self._processor.encode(piece, return_type="offset_mapping")
            ids += encoded["ids"]
            offsets += [(start + first, start + last) for first, last in self._spread(encoded)]
        return Encoding(ids, offsets)

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        known = (id_ for id_ in ids if id_ in self._names)
        parts = []
        for by_name, run in groupby(known, self._by_name.__contains__):
            if by_name:
                parts += [self._names[id_] for id_ in run if not (skip_special and id_ in self._special_ids)]
            else:
                parts.append(self._processor.decode(list(run)))
        return "".join(parts)

    def opens_with(self, config: Mapping[str, object]) -> list[str]:
        named = str(config.get("tokenizer_class", ""))
        if named == "ChatGLMTokenizer":
            return [name for name in CHATGLM_OPENING if name in self.ids]
        bos = self.named.get("bos_token")
        return [bos] if named.startswith("Llama") and bos is not None else []

    def files(self) -> dict[str, str | bytes]:
        return {"tokenizer.model": self._model}

    def __reduce__(self) -> tuple[Any, ...]:
        return SentencePieceBackend, (self._model, self._added, self._special)

    def _pieces(self, text: str, special: bool) -> Iterator[tuple[int, str, int | None]]:
        """(start, piece, id): the id where the piece is the name of an entry, None where it is text to encode."""
        cuts, start = self._cuts[special], 0
        for found in cuts.finditer(text) if cuts is not None else ():
            if found.start() > start:
                yield start, text[start : found.start()], None
            yield found.start(), found.group(), self.ids[found.group()]
            start = found.end()
        if start < len(text):
            yield start, text[start:], None

    def _spread(self, encoded: Mapping[str, Any]) -> list[tuple[int, int]]:
        """The library gives a character to the last of its bytes only; here each of them covers it."""
        offsets = list(encoded["offsets"])
        for place in range(len(offsets) - 2, -1, -1):
            start, end = offsets[place]
            if start == end and self._processor.is_byte(encoded["ids"][place]):
                offsets[place] = (start, offsets[place + 1][1])
        return offsets


def _any_of(names: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None


def _valid(text: str) -> str:
    """Half a surrogate pair, which no UTF-8 can hold, as U+FFFD."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
