"""What turns text into ids and back, beneath `Tokenizer`: one file for each library that does it.

- `fast.py` the `tokenizers` library: a tokenizer.json (byte-level BPE, WordPiece, and whatever else such a file holds),
  or the older files of BERT and GPT-2
- `sentencepiece_model.py` the `sentencepiece` library: the tokenizer.model of older Llama, Baichuan and ChatGLM folders
- `reading.py` which of them a folder asks for

Each keeps the contract below; none knows conversations, stop tokens or who is asking.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class Encoding(NamedTuple):
    """Ids of a text and, for each id, the (start, end) characters it covers.

    A character that was cut into several tokens is covered by each of them.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


class Backend(Protocol):
    """Text to ids and back. With special=False a control token's name in a text is only characters."""

    @property
    def kind(self) -> str:
        """The scheme, in words."""

    @property
    def ids(self) -> Mapping[str, int]:
        """Every entry of the vocabulary by name, control tokens included."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The control tokens by name, in the order of their ids."""

    def encode(self, text: str, special: bool) -> list[int]:
        """Ids of `text`, nothing added."""

    def encode_batch(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        """`encode` of many texts, on all cores that the library is given."""

    def encode_with_offsets(self, text: str, special: bool) -> Encoding:
        """Ids and the characters of `text` that each covers."""

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """The text of `ids`; ids that nothing stands for are left out."""

    def opens_with(self, config: Mapping[str, object]) -> list[str]:
        """The control tokens that its own files put before every text, where `config` doesn't say."""

    def files(self) -> dict[str, str | bytes]:
        """The files it is read from again, by name."""
