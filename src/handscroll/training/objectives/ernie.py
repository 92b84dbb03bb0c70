"""Masked language modelling by knowledge, and of conversations (ERNIE 1.0, arXiv 1904.09223).

Whole entities, whole phrases, and characters or words are hidden (`unit_hiding.py`) and told from both sides. Of a
conversation it is also told whether it is a real one (`conversations.py`); its queries and responses differ in their
segment, ERNIE's dialogue embedding. Windows hold several texts that don't see each other: [CLS] text [SEP], or [CLS]
query [SEP] response [SEP] and so on, and each one's [CLS] judges it.

Letters: B windows, T tokens, Q places of a window that tell something, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handscroll.kernels.likelihood import CHUNK, IGNORE
from handscroll.text.units.marks import ALONE, ENTITY, LEVELS, Mark
from handscroll.training.batch import Batch, TokenRow, Window, collate
from handscroll.training.objectives.conversations import Texts, judged
from handscroll.training.objectives.hiding import check_masked, hide, told_tokens
from handscroll.training.objectives.judging import check_judge, judge
from handscroll.training.objectives.objective import Loss, Models, Needs, Share, Term, told_places
from handscroll.training.objectives.router import joined
from handscroll.training.objectives.unit_hiding import Shares, choose_units
from handscroll.training.vocabulary import Vocabulary

# Labels: of each hidden token the level of its unit; of each text's first token whether it is a real conversation,
# how many entities it has, and how many of its tokens hold the end of a phrase or an entity and what is beside it.
LEVEL, FAKE, ENTITIES, STRADDLING = "level", "fake", "entities", "straddling"


@dataclass(frozen=True)
class Ernie:
    """Mean negative log-likelihood of hidden tokens, "mlm", and of which conversations are real, "dialogue".

    `masked` is the share of tokens that are hidden, control tokens never; `entity` and `phrase` are the shares of these
    that are hidden in whole entities and phrases. The paper has three stages, one a level, and tells no shares: the
    default is a third each. `dialogue`: whether conversations are judged, for which the head must be `pretraining`.
    `dictionary` is a file of the user's own entities; whoever tokenizes reads it. `pad_id`, `window` and `chunk` as in
    `CausalLM`.
    """

    needs: ClassVar[Needs] = Needs(
        roles=("mask", "cls", "sep"), masks=("bidirectional",), room=2, is_shifted=False, units=True
    )

    vocabulary: Vocabulary
    masked: float = 0.15
    phrase: float = 1 / 3
    entity: float = 1 / 3
    dialogue: bool = True
    dictionary: str | None = None
    pad_id: int = 0
    window: int | None = None
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        check_masked(self.masked)
        if min(self.phrase, self.entity) < 0 or self.phrase + self.entity > 1:
            raise ValueError(
                f"phrase={self.phrase} and entity={self.entity}: shares of the hidden tokens, 0 or more and together "
                "at most 1; single characters and words have the rest"
            )

    def prepare(self, models: Models, rows: Sequence[TokenRow], rng: torch.Generator) -> Sequence[TokenRow]:
        """The rows without their masks. Raises ValueError for a model that can't judge, and rows without units."""
        if self.dialogue:
            config, judges = models["model"].config, "real conversations from fake ones"
            check_judge(config, "dialogue", judges, "queries and responses are", "them")
        for number, row in enumerate(rows):
            if row.units is None:
                raise ValueError(f"row {number} has no units: tokenize it with UnitFinder.token_marks of its text")
        return [TokenRow(row.ids, units=row.units) for row in rows]

    def make_batch(self, windows: Sequence[Window], rng: torch.Generator) -> Batch:
        """Raises ValueError where all tokens are control tokens."""
        texts = Texts.joined([row for window in windows for row in window])
        judged_X = np.full(len(texts.length_X), IGNORE)
        if self.dialogue:
            window_X = np.repeat(np.arange(len(windows)), [len(window) for window in windows])
            texts, judged_X = judged(texts, window_X, self.vocabulary.roles["sep"], rng)
        texts = self._framed(texts)
        bounds = zip(texts.start_X.tolist(), texts.length_X.tolist(), strict=True)
        left = (TokenRow(texts.ids_N[start : start + length]) for start, length in bounds)
        batch = collate([[next(left) for _ in window] for window in windows], self.pad_id, self.window)
        may_N = ~self.vocabulary.is_control_V[texts.ids_N]
        if not may_N.any():
            raise ValueError(f"all of {batch.real_tokens} tokens of this batch are control tokens: give it text")
        shares = Shares(self.masked, self.phrase, self.entity)
        chosen_N, level_N, lead_N = choose_units(may_N, texts.marks_N, texts.text_N, shares, rng)
        drawn, ids = (torch.from_numpy(x_N) for x_N in (chosen_N, texts.ids_N))
        mask, size = self.vocabulary.roles["mask"], self.vocabulary.size
        is_entity_N = (texts.marks_N & Mark.LEVEL == ENTITY) & (texts.marks_N & Mark.UNIT > 0)
        first = {
            FAKE: judged_X,
            ENTITIES: np.add.reduceat(is_entity_N, texts.start_X, dtype=np.int64),
            STRADDLING: np.add.reduceat(texts.marks_N & Mark.STRADDLES > 0, texts.start_X, dtype=np.int64),
        }
        # Windows are filled from their beginnings: real places in order are the texts one after the other.
        real_N = np.flatnonzero(batch.layout.index_BT.numpy() >= 0)

        def spread(values: NDArray[np.generic], fill: int, places: NDArray[np.int64] = real_N) -> Tensor:
            filled_BT = np.full(batch.tokens_BT.shape, fill, dtype=np.int64)
            filled_BT.reshape(-1)[places] = values
            return torch.from_numpy(filled_BT)

        labels = {LEVEL: spread(np.where(chosen_N, level_N, IGNORE), IGNORE)}
        start_X = real_N[texts.start_X]
        labels |= {name: spread(told_X, IGNORE, start_X) for name, told_X in first.items()}
        hidden_N = hide(ids, drawn, mask, size, rng, torch.from_numpy(lead_N)).numpy()
        return replace(
            batch,
            tokens_BT=spread(hidden_N, self.pad_id),
            layout=replace(batch.layout, kinds_BT=spread(texts.marks_N & Mark.RESPONSE > 0, 0)),
            targets_BT=spread(np.where(chosen_N, texts.ids_N, IGNORE), IGNORE),
            labels=labels,
        )

    def loss(self, models: Models, batch: Batch) -> Loss:
        model, targets_BT = models["model"], batch.targets_BT
        level_BT, fake_BT = (batch.labels[name] for name in (LEVEL, FAKE))
        wanted_BQ = told_places((targets_BT != IGNORE) | (fake_BT != IGNORE))
        hidden = model.hidden(batch.tokens_BT, batch.layout, wanted_BQ=wanted_BQ)
        hidden_BTE = hidden.last_BTE
        if wanted_BQ is not None:
            targets_BT, level_BT, fake_BT = (x_BT.gather(1, wanted_BQ) for x_BT in (targets_BT, level_BT, fake_BT))
        metrics: dict[str, float | Share] = {}
        told = []
        for level, name in enumerate(LEVELS):
            is_of_BT = level_BT == level
            found = told_tokens(model, hidden_BTE[is_of_BT], targets_BT[is_of_BT], self.chunk)
            told.append(found)
            metrics[f"{name}_accuracy"] = Share(int(found.correct), found.count)
        terms = {"mlm": Term(torch.stack([each.sum for each in told]).sum(), sum(each.count for each in told))}
        if self.dialogue:
            is_first_BT = fake_BT != IGNORE
            terms["dialogue"], metrics["dialogue_accuracy"] = judge(
                model, hidden_BTE[is_first_BT], fake_BT[is_first_BT]
            )
        return joined(terms, {**metrics, **_found(batch)}, hidden, model)

    def _framed(self, texts: Texts) -> Texts:
        """Each between its control tokens; a part that was cut off before a turn's end is closed, too."""
        cls, sep = (self.vocabulary.roles[role] for role in ("cls", "sep"))
        last_X = texts.start_X + texts.length_X - 1
        is_open_X = texts.ids_N[last_X] != sep
        length_X = texts.length_X + 1 + is_open_X
        start_X = np.cumsum(length_X) - length_X
        place_N = np.arange(len(texts.ids_N)) + (start_X - texts.start_X + 1)[texts.text_N]
        end_X = (start_X + length_X - 1)[is_open_X]
        marks_N = texts.marks_N.copy()
        marks_N[texts.start_X] |= ALONE
        ids = np.empty(len(place_N) + len(is_open_X) + len(end_X), dtype=np.int64)
        marks = np.full(len(ids), ALONE, dtype=np.uint8)
        ids[start_X], ids[end_X], ids[place_N] = cls, sep, texts.ids_N
        marks[place_N] = marks_N
        marks[end_X] |= marks_N[last_X[is_open_X]] & Mark.RESPONSE
        return Texts(ids, marks, length_X)


def _found(batch: Batch) -> dict[str, Share]:
    """What the log tells of the texts: those without an entity, those that aren't judged, tokens that straddle; and of
    those that are judged the fakes."""
    is_text_BT = batch.labels[ENTITIES] != IGNORE
    texts = int(is_text_BT.sum())
    straddling = int(batch.labels[STRADDLING][is_text_BT].sum())
    is_judged_BT = batch.labels[FAKE] != IGNORE
    told = int(is_judged_BT.sum())
    return {
        "without_entity": Share(int((batch.labels[ENTITIES] == 0).sum()), texts),
        "alone": Share(texts - told, texts),
        "fakes": Share(int(batch.labels[FAKE][is_judged_BT].sum()), told),
        "straddling": Share(straddling, batch.real_tokens),
    }
