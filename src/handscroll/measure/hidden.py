"""What a model tells of hidden tokens: whether each is its first guess, and how much each surprises it.

Two kinds of model do so. `Masks`: one that sees both sides (BERT, ERNIE) is shown a mask for each hidden token, so that
it knows how many there are, and tells each without knowing the others. `Blanks`: a GLM is shown one mask for a whole
span, and tells its tokens one after the other, each given those before it, and where the span ends. Which tokens are
hidden is others' business (`suites/masked.py`, `suites/infilling.py`).

Letters: L tokens of a text, N hidden places or spans, B rows, T tokens of a row, Q told tokens of all rows,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handscroll.model import Layout, ModelConfig, Transformer
from handscroll.model.slots import VocabularyOptions
from handscroll.text import Tokenizer
from handscroll.training.objectives.blanks import BlankTokens, collate_blanks, corrupt

Integers = NDArray[np.int64]
# Tokens of the rows that go through a model together, at most.
TOKENS_AT_ONCE = 8192


class Told(NamedTuple):
    """Of each token of a span: whether it is the likeliest, and -log of its probability in nats.

    `is_ended`: whether the end of the span was told behind it; None where a model needn't tell it.
    """

    is_right: list[bool]
    nll: list[float]
    is_ended: bool | None = None


class Teller(Protocol):
    """A model and how it is asked."""

    def together(self, ids_L: Integers, places_N: Integers) -> list[Told]:
        """The token at each place, told while those at all others are hidden, too."""

    def alone(self, ids_L: Integers, spans_N2: Integers) -> list[Told]:
        """Each span (first token, the one behind the last), told while all the rest of the text is seen."""


def tells_hidden(config: ModelConfig) -> bool:
    tells = config.mask == "bidirectional" or (config.mask == "prefix" and config.position.axes == 2)
    return tells and isinstance(config.head, VocabularyOptions)


def make_teller(model: Transformer, tokenizer: Tokenizer) -> Teller:
    """ValueError for a tokenizer without the control tokens that such a model was trained with."""
    sees_both_sides = model.config.mask == "bidirectional"
    roles = ("mask", "cls", "sep") if sees_both_sides else ("mask", "span_start", "span_end")
    ids = [tokenizer.role_id(role) for role in roles]
    if None in ids:
        raise ValueError(
            f"this model's tokenizer has no control token for {roles[ids.index(None)]}: use the tokenizer that the "
            "model was trained with"
        )
    kind = Masks if sees_both_sides else Blanks
    return kind(model, *(id_ for id_ in ids if id_ is not None))


@dataclass(frozen=True)
class Masks:
    """A masked language model and its control tokens."""

    model: Transformer
    mask: int
    first: int
    last: int

    def together(self, ids_L: Integers, places_N: Integers) -> list[Told]:
        told = self._told(ids_L, [places_N])[0]
        return [Told([is_right], [nll]) for is_right, nll in zip(told.is_right, told.nll, strict=True)]

    def alone(self, ids_L: Integers, spans_N2: Integers) -> list[Told]:
        return self._told(ids_L, [np.arange(start, stop) for start, stop in spans_N2])

    def _told(self, ids_L: Integers, places: Sequence[Integers]) -> list[Told]:
        """A row for each group of places, which are hidden in it."""
        found = []
        for group in _batches(places, len(ids_L) + 2):
            shown_BT = np.tile(np.concatenate(([self.first], ids_L, [self.last])), (len(group), 1))
            row_Q = np.repeat(np.arange(len(group)), [len(each) for each in group])
            place_Q = np.concatenate(group) + 1
            targets_Q = shown_BT[row_Q, place_Q]
            shown_BT[row_Q, place_Q] = self.mask
            layout = Layout.rows([shown_BT.shape[1]] * len(group), device=self.model.device)
            found += _read(self.model, shown_BT, layout, row_Q, place_Q, targets_Q)
        return found


@dataclass(frozen=True)
class Blanks:
    """A model that fills blanks, and the control tokens around them."""

    model: Transformer
    mask: int
    start: int
    end: int

    def together(self, ids_L: Integers, places_N: Integers) -> list[Told]:
        spans_N2, each = np.stack((places_N, places_N + 1), axis=1), np.arange(len(places_N))
        # What is told first sees of all others that they are hidden, and nothing of what they hide.
        return self._told(ids_L, [(spans_N2, np.concatenate(([n], np.delete(each, n)))) for n in each])

    def alone(self, ids_L: Integers, spans_N2: Integers) -> list[Told]:
        return self._told(ids_L, [(span_2[None], np.array([0])) for span_2 in spans_N2])

    def _told(self, ids_L: Integers, rows: Sequence[tuple[Integers, Integers]]) -> list[Told]:
        """A row for each group of spans, whose first one in its order is told."""
        found: list[Told] = []
        marks = BlankTokens(self.mask, self.start, self.end)
        # Part B has two tokens for each that is hidden alone.
        for group in _batches(rows, 3 * len(ids_L)):
            made = [corrupt(ids_L, spans_N2, order_N, marks) for spans_N2, order_N in group]
            batch = collate_blanks([[each] for each in made]).to(self.model.device)
            sizes = [int(np.diff(spans_N2[order_N[0]])[0]) + 1 for spans_N2, order_N in group]
            row_Q = np.repeat(np.arange(len(group)), sizes)
            place_Q = np.concatenate([each.prefix + np.arange(size) for each, size in zip(made, sizes, strict=True)])
            targets_Q = batch.targets_BT.cpu().numpy()[row_Q, place_Q]
            for told in _read(self.model, batch.tokens_BT, batch.layout, row_Q, place_Q, targets_Q):
                found.append(Told(told.is_right[:-1], told.nll[:-1], told.is_right[-1]))
        return found


def _batches(rows: Sequence[Any], tokens: int) -> Iterator[Sequence[Any]]:
    """As many rows at a time as may go through a model together, `tokens` of each."""
    count = max(1, TOKENS_AT_ONCE // tokens)
    yield from (rows[first : first + count] for first in range(0, len(rows), count))


@torch.inference_mode()
def _read(
    model: Transformer,
    tokens_BT: Tensor | Integers,
    layout: Layout,
    row_Q: Integers,
    place_Q: Integers,
    targets_Q: Integers,
) -> list[Told]:
    """What each row tells at its places, rows in their order."""
    hidden_BTE = model.hidden(torch.as_tensor(tokens_BT, device=model.device), layout).last_BTE
    logits_QV = model.logits(hidden_BTE[torch.from_numpy(row_Q), torch.from_numpy(place_Q)]).float()
    targets = torch.from_numpy(targets_Q).to(model.device)
    right = (logits_QV.argmax(-1) == targets).tolist()
    nll = torch.nn.functional.cross_entropy(logits_QV, targets, reduction="none").tolist()
    bounds = np.searchsorted(row_Q, np.arange(row_Q[-1] + 2))
    return [Told(right[first:last], nll[first:last]) for first, last in pairwise(bounds)]
