"""Masked language modelling with next-sentence prediction (BERT, arXiv 1810.04805, section 3.1).

Of each text some tokens are hidden (`hiding.py`) and told from both sides; and of two texts it is told whether the
second one follows the first (`pairs.py`). Windows hold several texts, [CLS] a [SEP] b [SEP] each, that don't see each
other: whether b follows is told at each one's own [CLS].

Letters: B windows, T tokens, Q places of a window that tell something, N of all windows, E model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from handscroll.kernels.likelihood import CHUNK, IGNORE
from handscroll.training.batch import Batch, TokenRow, Window, collate
from handscroll.training.objectives.hiding import check_masked, choose, hide, told_tokens
from handscroll.training.objectives.judging import check_judge, judge
from handscroll.training.objectives.objective import Loss, Models, Needs, Share, Term, told_places
from handscroll.training.objectives.pairs import Pair, make_pairs
from handscroll.training.objectives.router import joined
from handscroll.training.vocabulary import Vocabulary

# Labels of the first token of each text: whether the second part follows, and how many parts there are.
NEXT, PARTS = "next", "parts"


class Framed(NamedTuple):
    """A text between its control tokens; its second part begins at `border`. `label` as of a `Pair`."""

    ids: NDArray[np.int64]
    border: int
    label: int | None


@dataclass(frozen=True)
class MaskedLM:
    """Mean negative log-likelihood of hidden tokens, "mlm", and of whether the second text follows, "nsp".

    `masked` is the share of tokens that are hidden, control tokens never. Without `next_sentence` texts stay whole, and
    any head over the vocabulary will do. A text of one sentence, and one without another in its batch, has no second
    part: only its tokens are learnt, and the metric "alone" is the share of such texts. `pad_id`, `window` and `chunk`
    as in `CausalLM`.
    """

    needs: ClassVar[Needs] = Needs(roles=("mask", "cls", "sep"), masks=("bidirectional",), room=3, is_shifted=False)

    vocabulary: Vocabulary
    masked: float = 0.15
    next_sentence: bool = True
    pad_id: int = 0
    window: int | None = None
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        check_masked(self.masked)

    def prepare(self, models: Models, rows: Sequence[TokenRow], rng: torch.Generator) -> Sequence[TokenRow]:
        """The rows without their masks. Raises ValueError for a model that can't tell which text follows."""
        if self.next_sentence:
            check_judge(models["model"].config, "next_sentence", "which text follows", "a pair has", "its texts")
        return [TokenRow(row.ids) for row in rows]

    def make_batch(self, windows: Sequence[Window], rng: torch.Generator) -> Batch:
        """Raises ValueError where all tokens are control tokens."""
        texts = [np.asarray(row.ids, dtype=np.int64) for window in windows for row in window]
        pairs = iter(make_pairs(texts, self.vocabulary.is_end_V, rng) if self.next_sentence else map(Pair, texts))
        framed = [[self._framed(next(pairs)) for _ in window] for window in windows]
        batch = collate([[TokenRow(text.ids) for text in window] for window in framed], self.pad_id, self.window)
        if self.next_sentence:
            batch = _labelled(batch, framed)
        may_BT = (batch.layout.index_BT >= 0) & ~torch.from_numpy(self.vocabulary.is_control_V)[batch.tokens_BT]
        if not may_BT.any():
            raise ValueError(f"all of {batch.real_tokens} tokens of this batch are control tokens: give it text")
        chosen_BT = choose(may_BT, self.masked, rng)
        targets_BT = batch.tokens_BT.masked_fill(~chosen_BT, IGNORE)
        hidden_BT = hide(batch.tokens_BT, chosen_BT, self.vocabulary.roles["mask"], self.vocabulary.size, rng)
        return replace(batch, tokens_BT=hidden_BT, targets_BT=targets_BT)

    def loss(self, models: Models, batch: Batch) -> Loss:
        model, targets_BT = models["model"], batch.targets_BT
        next_BT = batch.labels.get(NEXT, torch.full_like(targets_BT, IGNORE))
        wanted_BQ = told_places((targets_BT != IGNORE) | (next_BT != IGNORE))
        hidden = model.hidden(batch.tokens_BT, batch.layout, wanted_BQ=wanted_BQ)
        hidden_BTE = hidden.last_BTE
        if wanted_BQ is not None:
            targets_BT, next_BT = targets_BT.gather(1, wanted_BQ), next_BT.gather(1, wanted_BQ)
        is_hidden_BT = targets_BT != IGNORE
        told = told_tokens(model, hidden_BTE[is_hidden_BT], targets_BT[is_hidden_BT], self.chunk)
        terms, metrics = {"mlm": Term(told.sum, told.count)}, {"mlm_accuracy": Share(int(told.correct), told.count)}
        if self.next_sentence:
            is_first_BT = next_BT != IGNORE
            terms["nsp"], metrics["nsp_accuracy"] = judge(model, hidden_BTE[is_first_BT], next_BT[is_first_BT])
            parts_BT = batch.labels[PARTS]
            metrics["alone"] = Share(int((parts_BT == 1).sum()), int((parts_BT != IGNORE).sum()))
        return joined(terms, metrics, hidden, model)

    def _framed(self, pair: Pair) -> Framed:
        cls, sep = ([self.vocabulary.roles[role]] for role in ("cls", "sep"))
        second = [] if pair.second is None else [pair.second, sep]
        return Framed(np.concatenate([cls, pair.first, sep, *second]), len(pair.first) + 2, pair.label)


def _labelled(batch: Batch, framed: Sequence[Sequence[Framed]]) -> Batch:
    """With what part each token is of, and what each text's first token is to tell."""
    kinds_BT = np.zeros(batch.tokens_BT.shape, dtype=np.int64)
    next_BT, parts_BT = (np.full_like(kinds_BT, IGNORE) for _ in range(2))
    for b, window in enumerate(framed):
        start = 0
        for text in window:
            end = start + len(text.ids)
            kinds_BT[b, start + text.border : end] = 1
            next_BT[b, start] = IGNORE if text.label is None else text.label
            parts_BT[b, start] = 1 if text.label is None else 2
            start = end
    labels = {NEXT: torch.from_numpy(next_BT), PARTS: torch.from_numpy(parts_BT)}
    return replace(batch, layout=replace(batch.layout, kinds_BT=torch.from_numpy(kinds_BT)), labels=labels)
