"""Autoregressive blank infilling: spans of a text are hidden, and told in random order (GLM, arXiv 2103.10360).

Every document gets one of three tasks, in the shares of `Mix`: short spans, whole sentences, or its end, which is how
a text is continued (sections 2.1 and 2.1.2; the end rather than any place, as in GLM-130B, arXiv 2210.02414, section
2.2). What a batch then looks like is `blanks.py`'s business, which spans are taken `spans.py`'s. Needs a model of
mask=prefix whose positions have two axes.

Letters: D documents of a window, L tokens of a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from handscroll.kernels.likelihood import CHUNK
from handscroll.training.batch import Batch, TokenRow, Window
from handscroll.training.objectives.blanks import BlankTokens, Corrupted, collate_blanks, corrupt
from handscroll.training.objectives.causal_lm import token_loss
from handscroll.training.objectives.objective import Loss, Models, Needs, Share, TokenLoss
from handscroll.training.objectives.spans import last_span, most_spans, sentence_spans, short_spans
from handscroll.training.randomness import numbers_of
from handscroll.training.vocabulary import Vocabulary

# What each task puts into a blank's place.
ROLES = {"short": "mask", "sentence": "sentence_mask", "document": "document_mask"}
# A span brings its blank and its start token into a row, beside the tokens that it had there.
ADDED = 2
# Of no tokenizer: options alone can be looked at without one.
NOBODYS = Vocabulary(0, {})


@dataclass(frozen=True)
class Mix:
    """How often a document gets each task, relative to the others."""

    short: float = 1.0
    sentence: float = 0.0
    document: float = 1.0

    def __post_init__(self) -> None:
        if min(self.shares) < 0 or not sum(self.shares):
            raise ValueError(f"mix={self.shares}: shares of short, sentence and document, one of them above 0")

    @property
    def shares(self) -> tuple[float, float, float]:
        return self.short, self.sentence, self.document


class Told(NamedTuple):
    """A document with its blanks, and whether it had no two sentences where such were to be hidden."""

    corrupted: Corrupted
    lacks_sentences: bool


@dataclass(frozen=True)
class GLM(TokenLoss):
    """Mean negative log-likelihood of hidden tokens and of where their spans end. `pad_id`, `window`, `chunk` as in
    `CausalLM`.

    Short spans, `mean_length` tokens long on average before 0 is left out (see `spans.py`), and sentences are hidden
    until they hold `hidden` of a document's tokens. Where the spans of a window would not fit it there are fewer, one a
    document at least; a document that has no room even for one is left out of the batch. The log counts such
    documents as `left_out`, and as `without_sentences` those that got short spans for want of two sentences.
    """

    needs: ClassVar[Needs] = Needs(
        roles=(*ROLES.values(), "span_start", "span_end"),
        masks=("prefix",),
        axes=2,
        room=ADDED,
        is_bounded=True,
    )

    pad_id: int = 0
    window: int | None = None
    chunk: int = CHUNK
    vocabulary: Vocabulary = NOBODYS
    hidden: float = 0.15
    mean_length: float = 3.0
    mix: Mix = Mix()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.hidden <= 0.5:
            raise ValueError(f"hidden={self.hidden}: a share of the tokens, above 0 and at most 0.5")
        if not 0 < self.mean_length <= 20:
            raise ValueError(f"mean_length={self.mean_length}: tokens of a span, above 0 and at most 20")

    def text_window(self, window: int) -> int:
        """How many tokens of documents, with what is added to each, a window of a source may have.

        So many that their spans fit the model's window but in one of a thousand cases.
        """
        if not self.mix.short + self.mix.sentence:
            return window
        text = window
        while text > ADDED + 2 and text + ADDED * (most_spans(text, self.hidden, self.mean_length) - 1) > window:
            text -= 1
        return text

    def prepare(self, models: Models, rows: Sequence[TokenRow], rng: torch.Generator) -> Sequence[TokenRow]:
        """The rows without their masks. Raises ValueError for a row of one token."""
        for row in rows:
            if len(row.ids) < 2:
                raise ValueError(f"a row of {len(row.ids)} tokens has nothing that a blank is told by: leave it out")
        return [TokenRow(row.ids) for row in rows]

    def make_batch(self, windows: Sequence[Window], rng: torch.Generator) -> Batch:
        draws = numbers_of(rng)
        told = [self._told(rows, draws) for rows in windows]
        documents = sum(len(rows) for rows in windows)
        text = sum(len(row.ids) for rows in windows for row in rows)
        kept = [each for inner in told for each in inner]
        if not kept:
            raise ValueError(f"none of {documents} documents has room for a blank: raise train.window={self.window}")
        counts = {
            "hidden": (sum(each.corrupted.hidden for each in kept), text),
            "without_sentences": (sum(each.lacks_sentences for each in kept), documents),
            "left_out": (documents - len(kept), documents),
        }
        batch = collate_blanks([[each.corrupted for each in inner] for inner in told], self.pad_id, self.window)
        return replace(batch, counts=counts)

    def loss(self, models: Models, batch: Batch) -> Loss:
        loss = token_loss(models, batch, self.chunk, self)
        shares = {name: Share(*counted) for name, counted in batch.counts.items()}
        return loss._replace(metrics={**loss.metrics, **shares})

    def _told(self, rows: Window, draws: np.random.Generator) -> list[Told]:
        """The documents of a window that have room for a blank."""
        lengths_D = np.array([len(row.ids) for row in rows])
        shares = np.array(self.mix.shares) / sum(self.mix.shares)
        tasks = draws.choice(list(ROLES), len(rows), p=shares)
        allowed_D = lengths_D if self.window is None else allowed(lengths_D, self.window)
        return [
            self._blanked(np.asarray(row.ids, dtype=np.int64), task, int(most), draws)
            for row, task, most in zip(rows, tasks, allowed_D, strict=True)
            if most
        ]

    def _blanked(self, ids_L: NDArray[np.int64], task: str, most: int, draws: np.random.Generator) -> Told:
        """A document with the blanks of its task, `most` at most."""
        spans, lacks_sentences = None, False
        if task == "document":
            spans = last_span(len(ids_L), draws)
        elif task == "sentence":
            spans = sentence_spans(np.isin(ids_L, self.vocabulary.sentence_ends), self.hidden, most, draws)
            lacks_sentences = spans is None
        if spans is None:
            task, spans = "short", short_spans(len(ids_L), self.hidden, self.mean_length, most, draws)
        return Told(corrupt(ids_L, spans, draws.permutation(len(spans)), self._marks(task)), lacks_sentences)

    def _marks(self, task: str) -> BlankTokens:
        roles = self.vocabulary.roles
        return BlankTokens(roles[ROLES[task]], roles["span_start"], roles["span_end"])


def allowed(lengths_D: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """(D,): how many spans each document may have, so that all fit the window: one each, as far as there is room for
    that, and of the rest more for longer documents."""
    room = max(0, window - int(lengths_D.sum())) // ADDED
    first_D = (np.arange(len(lengths_D)) < room).astype(np.int64)
    rest = room - int(first_D.sum())
    more_D: NDArray[np.int64] = first_D + rest * lengths_D // max(1, int(lengths_D.sum()))
    return more_D
