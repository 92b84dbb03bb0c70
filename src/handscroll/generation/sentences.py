"""A text as one vector (Sentence-BERT, arXiv 1908.10084): hidden states, pooled, and brought to length 1.

Knows the folders of sentence encoders: modules.json says which steps follow the network. Any other model may be used
as well, with the mean of its last hidden states. Leaves files and loading to its callers.

Letters: N texts, E model width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from handscroll.model import Layout, Transformer
from handscroll.model.pooling import POOLINGS, pool
from handscroll.text import Tokenizer

MODULES, LENGTHS, CONFIG = "modules.json", "sentence_bert_config.json", "config.json"
# As the pooling step's config.json says them, in its older and its newer form.
OLD_POOLINGS = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
NEW_POOLINGS = {"cls": "first", "mean": "mean", "lasttoken": "last"}
# Padded tokens of a batch, at most, unless one text has more.
TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class SentenceOptions:
    """`pooling`: "first", "mean" or "last" of a text's hidden states. `normalize`: whether a vector gets length 1.

    `max_length`: of a longer text the first tokens are taken; None: as many as the model has positions.
    """

    pooling: str = "mean"
    normalize: bool = True
    max_length: int | None = None
    lower_case: bool = False

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r} is not known; known: {', '.join(POOLINGS)}")
        if self.max_length is not None and self.max_length < 3:
            raise ValueError(f"max_length={self.max_length}: at least 3, one token between the two that frame a text")


class Embedded(NamedTuple):
    """Vectors of some of the texts, by their places; how many tokens each has, and whether more were left out."""

    places: list[int]
    vectors_NE: Tensor
    tokens: list[int]
    truncated: list[bool]


class SentenceEncoder:
    def __init__(self, model: Transformer, tokenizer: Tokenizer, options: SentenceOptions = SentenceOptions()):
        self.model, self.tokenizer, self.options = model, tokenizer, options
        longest = model.config.max_positions
        self.max_length = min(longest, options.max_length or longest)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """(N, E) float32 on the host, in the order of the texts. Raises ValueError for an empty text."""
        vectors_NE = torch.empty(len(texts), self.model.config.width)
        for part in self.stream(texts):
            vectors_NE[part.places] = part.vectors_NE
        return vectors_NE

    def stream(self, texts: Sequence[str]) -> Iterator[Embedded]:
        """Batches of texts of about one length, the longest first, so that memory runs out at once or never."""
        whole = [self._framed(text, number) for number, text in enumerate(texts, 1)]
        rows = [self._cut(row) for row in whole]
        places = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        while places:
            count = max(1, TOKENS_AT_ONCE // len(rows[places[0]]))
            batch, places = places[:count], places[count:]
            lengths = [len(rows[place]) for place in batch]
            yield Embedded(
                batch,
                self._vectors([rows[place] for place in batch]),
                lengths,
                [len(whole[place]) > length for place, length in zip(batch, lengths, strict=True)],
            )

    @torch.inference_mode()
    def _vectors(self, rows: Sequence[Sequence[int]]) -> Tensor:
        device, lengths = self.model.device, [len(row) for row in rows]
        tokens_BT = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
        for number, row in enumerate(rows):
            tokens_BT[number, : len(row)] = torch.tensor(row)
        layout = Layout.rows(lengths, device=device)
        hidden_BTE = self.model.hidden(tokens_BT.to(device), layout).last_BTE.float()
        vectors_BE = pool(hidden_BTE, layout, self.options.pooling)
        return (F.normalize(vectors_BE) if self.options.normalize else vectors_BE).cpu()

    def _framed(self, text: str, number: int) -> list[int]:
        if not text.strip():
            raise ValueError(f"text {number} is empty: give at least one character")
        return framed(self.model, self.tokenizer, text.lower() if self.options.lower_case else text)

    def _cut(self, ids: list[int]) -> list[int]:
        """The first tokens, and the one that ends every text."""
        if len(ids) <= self.max_length:
            return ids
        last = ids[-1:] if _frame(self.model, self.tokenizer) is not None else []
        return ids[: self.max_length - len(last)] + last


def framed(model: Transformer, tokenizer: Tokenizer, text: str, *, special: bool = False) -> list[int]:
    """An encoder's text stands between two control tokens; a decoder's begins as its tokenizer says."""
    ids, frame = tokenizer.encode(text, special=special), _frame(model, tokenizer)
    return [*tokenizer.opening_ids, *ids] if frame is None else [frame[0], *ids, frame[1]]


def read_sentence_options(folder: Path) -> SentenceOptions:
    """What the folder of a sentence encoder says; of any other folder the defaults.

    Raises ValueError for a step or a pooling that isn't supported.
    """
    path = folder / MODULES
    if not path.is_file():
        return SentenceOptions()
    modules = _read(path)
    if not isinstance(modules, list) or not all(isinstance(each, dict) and "type" in each for each in modules):
        raise ValueError(f"{path} is not a list of steps: download it again")
    steps = {str(each["type"]).rpartition(".")[2]: str(each.get("path", "")) for each in modules}
    unknown = sorted(steps.keys() - {"Transformer", "Pooling", "Normalize"})
    if unknown:
        raise ValueError(
            f"{path} has the step {unknown[0]}, which isn't supported: only Transformer, Pooling, Normalize"
        )
    lengths = _read(folder / LENGTHS) if (folder / LENGTHS).is_file() else {}
    return SentenceOptions(
        _pooling(folder / steps["Pooling"] / CONFIG) if "Pooling" in steps else "mean",
        "Normalize" in steps,
        lengths.get("max_seq_length"),
        bool(lengths.get("do_lower_case")),
    )


def _pooling(path: Path) -> str:
    config = _read(path)
    named = config.get("pooling_mode")
    asked = (
        [named] if named else [key for key, value in config.items() if key.startswith("pooling_mode") and value is True]
    )
    known = NEW_POOLINGS if named else OLD_POOLINGS
    if len(asked) != 1 or asked[0] not in known:
        raise ValueError(
            f"{path} asks for {' and '.join(map(str, asked)) or 'nothing'}: supported is one of {', '.join(known)}"
        )
    return known[asked[0]]


def _frame(model: Transformer, tokenizer: Tokenizer) -> tuple[int, int] | None:
    """What stands before and after a text of an encoder."""
    first, last = tokenizer.role_id("cls"), tokenizer.role_id("sep")
    return None if model.config.mask != "bidirectional" or first is None or last is None else (first, last)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read as JSON ({error}): download it again") from error
