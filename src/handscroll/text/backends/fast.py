"""A tokenizer.json, run by the `tokenizers` library.

Knows the two readings of a control token's name in a text. Leaves to others how the vocabulary was learnt
(`learning.py`) and which tokens the config names.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from handscroll.text.backends import Encoding


class FastBackend:
    """`backend_json` is the content of a tokenizer.json.

    `original` is a tokenizer.model that lay beside it: not used here, kept for programs that read nothing else.
    """

    def __init__(self, backend_json: str, original: bytes | None = None) -> None:
        self._json, self._original = backend_json, original
        # Two copies, because whether control tokens in a text are obeyed is a setting of the copy:
        # switching one shared copy to and fro would race between threads.
        self._obeying = tokenizers.Tokenizer.from_str(backend_json)
        self._literal = tokenizers.Tokenizer.from_str(backend_json)
        for backend in (self._obeying, self._literal):
            backend.no_padding()
            backend.no_truncation()
        self._literal.encode_special_tokens = True
        self.ids: dict[str, int] = self._obeying.get_vocab(with_added_tokens=True)
        added = sorted(self._obeying.get_added_tokens_decoder().items())
        self.special_tokens: dict[str, int] = {token.content: id_ for id_, token in added if token.special}

    @property
    def kind(self) -> str:
        content = json.loads(self._json)
        name = str(content["model"].get("type", "BPE"))
        is_bytes = "ByteLevel" in json.dumps(content["decoder"])
        return f"byte-level {name}" if is_bytes else name

    def encode(self, text: str, special: bool) -> list[int]:
        ids: list[int] = self._of(special).encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        return [each.ids for each in self._of(special).encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_offsets(self, text: str, special: bool) -> Encoding:
        encoded = self._of(special).encode(text, add_special_tokens=False)
        return Encoding(encoded.ids, encoded.offsets)

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        text: str = self._obeying.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def opens_with(self, config: Mapping[str, object]) -> list[str]:
        first = self._obeying.encode("").tokens[:1]
        return first if first and first[0] == _name(config.get("bos_token")) else []

    def files(self) -> dict[str, str | bytes]:
        rest: dict[str, str | bytes] = {} if self._original is None else {"tokenizer.model": self._original}
        return {"tokenizer.json": self._json, **rest}

    def __reduce__(self) -> tuple[Any, ...]:
        return FastBackend, (self._json, self._original)

    def _of(self, special: bool) -> tokenizers.Tokenizer:
        return self._obeying if special else self._literal


def _name(token: object) -> object:
    return token.get("content") if isinstance(token, dict) else token
