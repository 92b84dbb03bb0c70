"""Masking by levels and judging conversations: batches worked out by hand, shares by chi-square, and bad input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from handscroll.model import Transformer
from handscroll.model.heads import MaskedLmOptions, PretrainingOptions
from handscroll.model.slots import EmbeddingOptions
from handscroll.text.units import LEVELS, Mark
from handscroll.training import Batch, Ernie, TokenRow, Vocabulary
from handscroll.training.objectives.conversations import FAKE, REAL, Texts, judged
from handscroll.training.objectives.ernie import ENTITIES, LEVEL, STRADDLING
from handscroll.training.objectives.ernie import FAKE as JUDGED
from handscroll.training.objectives.hiding import hide
from handscroll.training.objectives.unit_hiding import MOST, Shares, choose_units, leads

PAD, CLS, SEP, MASK, SIZE = 0, 2, 3, 4, 60
KNOWN = Vocabulary(SIZE, {"mask": MASK, "cls": CLS, "sep": SEP}, (PAD, 1, CLS, SEP, MASK))
ENCODER = {
    "mask": "bidirectional",
    "head": PretrainingOptions(),
    "embedding": EmbeddingOptions(segments=2),
    "vocab_size": SIZE,
}
# 0.1 % of all correct programs would be further from what is expected.
CHI_SQUARE = {2: 13.82, 3: 16.27}
MakeModel = Callable[..., Transformer]
WORD, UNIT = Mark.WORD, Mark.WORD | Mark.UNIT
PHRASE, ENTITY = 1, 2
# By hand: a word of two tokens, a phrase of three words, an entity of two words, the second in two pieces; two words.
MARKS = [UNIT, 0, UNIT | PHRASE, WORD | PHRASE, WORD | PHRASE, UNIT | ENTITY, WORD | ENTITY, ENTITY, UNIT, UNIT]
RUNS = {"token": [(0, 2), (8, 9), (9, 10)], "phrase": [(2, 5)], "entity": [(5, 8)]}
WORDS = [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 8), (8, 9), (9, 10)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(first: int = 10, count: int = 1) -> TokenRow:
    return TokenRow(np.arange(first, first + 10 * count), units=np.array(MARKS * count, dtype=np.uint8))


def talk(*turns: tuple[bool, list[int]]) -> TokenRow:
    """Turns, (is a response, ids), each closed."""
    ids, marks = [], []
    for is_response, said in turns:
        ids += [*said, SEP]
        speaker = Mark.RESPONSE if is_response else 0
        marks += [UNIT | speaker | Mark.TURN, *[UNIT | speaker] * len(said)]
    return TokenRow(np.array(ids), units=np.array(marks, dtype=np.uint8))


def test_only_whole_units_are_hidden_and_all_of_them_occur() -> None:
    objective = Ernie(vocabulary=KNOWN, masked=0.3)
    seen = set()
    for seed in range(200):
        batch = objective.make_batch([[text()]], seeded(seed))
        assert torch.where(batch.targets_BT == -100, batch.tokens_BT, batch.targets_BT)[0, [0, -1]].tolist() == [
            CLS,
            SEP,
        ]
        level_T = batch.labels[LEVEL][0, 1:-1].numpy()
        assert ((level_T != -100) == (batch.targets_BT[0, 1:-1] != -100).numpy()).all()
        assert (batch.targets_BT[0, 1:-1].numpy()[level_T != -100] == np.arange(10, 20)[level_T != -100]).all()
        for number, name in enumerate(LEVELS):
            hidden = set(np.flatnonzero(level_T == number).tolist())
            for start, stop in WORDS if name == "token" else RUNS[name]:
                run = set(range(start, stop))
                if run & hidden:
                    assert run <= hidden
                    hidden -= run
                    seen.add((name, start))
            assert not hidden
    assert seen == {*(("token", start) for start, _ in WORDS), ("phrase", 2), ("entity", 5)}


def test_shares_of_levels_and_what_lacking_ones_leave() -> None:
    """Texts of ten one-token entities, ten phrases and twenty tokens; and texts without the former."""
    count, shares = 400, Shares(0.15, 0.3, 0.5)
    marks = np.array(([UNIT | ENTITY] * 10 + [UNIT | PHRASE] * 10 + [UNIT] * 20) * count, dtype=np.uint8)
    text_N = np.repeat(np.arange(count), 40)
    may_N = np.ones(len(marks), dtype=bool)

    def found(marks: np.ndarray) -> np.ndarray:
        chosen = choose_units(may_N, marks, text_N, shares, seeded(1))
        levels = np.bincount(chosen.level_N[chosen.chosen_N], minlength=3)
        return np.array([len(marks) - levels.sum(), *levels])

    tokens = len(marks)
    for given, parts in ((marks, [0.2, 0.3, 0.5]), (np.where(marks & 3 == ENTITY, UNIT, marks), [0.2, 0.8, 0])):
        expected = tokens * np.array([0.85, *(0.15 * np.array(parts))])
        counted = found(given.astype(np.uint8))
        is_there = expected > 0
        assert (counted[~is_there] == 0).all()
        chi_square = ((counted - expected)[is_there] ** 2 / expected[is_there]).sum()
        assert chi_square < CHI_SQUARE[int(is_there.sum()) - 1]


def test_of_few_entities_at_most_half_are_hidden_and_as_many_tokens_in_all() -> None:
    count = 2000
    marks = np.array(([UNIT | ENTITY, ENTITY] + [UNIT] * 38) * count, dtype=np.uint8)
    text_N, may_N = np.repeat(np.arange(count), 40), np.ones(40 * count, dtype=bool)
    chosen = choose_units(may_N, marks, text_N, Shares(0.15, 0, 1), seeded(0))
    entities = (chosen.level_N == ENTITY)[::40].mean()
    assert abs(entities - MOST) < 3.3 * (0.25 / count) ** 0.5
    # Words within entities that were spared may be hidden, too.
    assert abs(chosen.chosen_N.mean() - 0.15) < 0.006


def test_a_unit_is_hidden_in_one_way() -> None:
    """80 % become masks, 10 % random tokens, 10 % stay, all tokens of a unit alike."""
    units = 6000
    tokens = torch.full((3 * units,), 7)
    lead = torch.arange(units).repeat_interleave(3) * 3
    hidden_U3 = hide(tokens, torch.ones(3 * units, dtype=torch.bool), MASK, 10**6, seeded(0), lead).view(units, 3)
    kinds = [(hidden_U3 == MASK), (hidden_U3 == 7), (hidden_U3 != MASK) & (hidden_U3 != 7)]
    assert all((kind.all(1) == kind.any(1)).all() for kind in kinds)
    counted = np.array([int(kind.all(1).sum()) for kind in kinds])
    expected = units * np.array([0.8, 0.1, 0.1])
    assert ((counted - expected) ** 2 / expected).sum() < CHI_SQUARE[2]


def test_leads() -> None:
    assert leads(np.array(MARKS, dtype=np.uint8), Mark.UNIT).tolist() == [0, 0, 2, 2, 2, 5, 5, 5, 8, 9]
    assert leads(np.array(MARKS, dtype=np.uint8), Mark.WORD).tolist() == [0, 0, 2, 3, 4, 5, 6, 6, 8, 9]
    # A part of a row that begins within a unit.
    assert leads(np.array(MARKS[6:], dtype=np.uint8), Mark.UNIT).tolist() == [0, 0, 2, 3]


QRQ = talk((False, [10, 11]), (True, [12, 13, 14]), (False, [15]))
QQR = talk((False, [20]), (False, [21]), (True, [22, 23]))
QRR = talk((False, [30]), (True, [31, 32, 33]), (True, [34]))


def test_conversations_worked_out_by_hand() -> None:
    """Segments, and one response of half of them exchanged for one of another conversation that fits."""
    objective = Ernie(vocabulary=KNOWN)
    labels = []
    for seed in range(300):
        batch = objective.make_batch([[QRQ], [QQR], [QRR]], seeded(seed))
        seen_BT = torch.where(batch.targets_BT == -100, batch.tokens_BT, batch.targets_BT)
        told = batch.labels[JUDGED][:, 0].tolist()
        labels += told
        rows = [[id_ for id_ in row if id_ != PAD] for row in seen_BT.tolist()]
        assert all(len(row) <= 10 for row in rows)
        responses = [[12, 13, 14, SEP], [22, 23, SEP], [31, 32, 33, SEP], [34, SEP]]
        first = {REAL: [[12, 13, 14, SEP]], FAKE: [each for each in responses if each[0] != 12]}[told[0]]
        assert rows[0] in [[CLS, 10, 11, SEP, *said, 15, SEP] for said in first]
        second = {REAL: [[22, 23, SEP]], FAKE: [each for each in responses if each[0] != 22]}[told[1]]
        assert rows[1] in [[CLS, 20, SEP, 21, SEP, *said] for said in second]
        own = {REAL: [[31, 32, 33, SEP, 34, SEP]]}
        others = responses[:2]
        own[FAKE] = [[*said, 34, SEP] for said in others] + [[31, 32, 33, SEP, *said] for said in others]
        assert rows[2] in [[CLS, 30, SEP, *said] for said in own[told[2]]]
        assert batch.layout.kinds_BT is not None
        length = len(rows[0]) - 6
        assert batch.layout.kinds_BT[0, : len(rows[0])].tolist() == [0] * 4 + [1] * length + [0] * 2
    assert abs(labels.count(FAKE) - 450) < 3.3 * (900 / 4) ** 0.5
    assert set(labels) == {REAL, FAKE}


def test_every_other_response_is_taken_as_often_but_one_that_says_the_same() -> None:
    """Of four others, all in windows of their own."""
    same = talk((False, [35]), (True, [12, 13, 14]))
    rows = [QRQ, QQR, QRR, same]
    taken = dict.fromkeys(((22, 23), (31, 32, 33), (34,)), 0)
    for seed in range(400):
        texts, label_X = judged(Texts.joined(rows), np.arange(4), SEP, seeded(seed))
        said = tuple(texts.ids_N[texts.text_N == 0].tolist()[3:-3])
        if label_X[0] == FAKE:
            taken[said] += 1
        else:
            assert said == (12, 13, 14)
    count = sum(taken.values())
    assert abs(count - 200) < 3.3 * 10
    assert sum((found - count / 3) ** 2 / (count / 3) for found in taken.values()) < CHI_SQUARE[2]
    none, label_X = judged(Texts.joined([QRQ, same]), np.arange(2), SEP, seeded(0))
    assert (none.ids_N.tolist(), label_X.tolist()) == ([*QRQ.ids, *same.ids], [REAL, REAL])


def test_the_fakes_of_a_window_share_its_room() -> None:
    """Two conversations of 5 tokens with their [CLS] in one window, and 14 tokens in the other: there is room for 4.

    A fake alone may have the long response, 3 tokens longer; of two each has room for 2 and none becomes one.
    """
    short, long = talk((False, [20]), (True, [21])), talk((False, [30]), (True, [31, 32, 33, 34]))
    rows, seen = [short, short, long, TokenRow(np.arange(40, 44), units=np.full(4, UNIT, dtype=np.uint8))], set()
    for seed in range(100):
        texts, label_X = judged(Texts.joined(rows), np.array([0, 0, 1, 1]), SEP, seeded(seed))
        assert texts.length_X[:2].tolist() == [7 if label == FAKE else 4 for label in label_X[:2]]
        seen.add(tuple(label_X[:2].tolist()))
    assert seen == {(REAL, REAL), (REAL, FAKE), (FAKE, REAL)}


def test_no_window_becomes_longer_and_only_whole_responses_are_taken() -> None:
    """Parts of conversations that were cut: one ends within a response, another begins with one."""

    def part(row: TokenRow, start: int, stop: int) -> TokenRow:
        assert row.units is not None
        return TokenRow(np.asarray(row.ids)[start:stop], units=row.units[start:stop])

    rows = [part(QRQ, 0, 5), part(QRR, 3, 8), QQR, text()]
    seen = set()
    for seed in range(60):
        texts, label_X = judged(Texts.joined(rows), np.array([0, 0, 1, 1]), SEP, seeded(seed))
        assert label_X[3] == -100
        assert texts.ids_N[texts.text_N == 3].tolist() == list(range(10, 20))
        lengths = [
            int(texts.length_X[0] + 2 + texts.length_X[1] + 1),
            int(texts.length_X[2] + 1 + texts.length_X[3] + 2),
        ]
        assert max(lengths) == lengths[1] == 20 or texts.length_X[2] == 6
        seen.add(tuple(texts.ids_N[texts.text_N == 2].tolist()))
    assert seen == {(20, SEP, 21, SEP, *said, SEP) for said in ((22, 23), (32, 33), (34,))}


def test_fallbacks_are_counted(make_model: MakeModel) -> None:
    marks = np.array([UNIT, UNIT | PHRASE | Mark.STRADDLES, UNIT], dtype=np.uint8)
    objective = Ernie(vocabulary=KNOWN)
    batch = objective.make_batch([[text(), TokenRow(np.array([40, 41, 42]), units=marks)], [QRQ]], seeded(0))
    assert batch.labels[ENTITIES][batch.labels[ENTITIES] != -100].tolist() == [1, 0, 0]
    assert batch.labels[STRADDLING].max() == 1
    loss = objective.loss({"model": make_model(**ENCODER)}, batch)
    assert loss.metrics["without_entity"] == (2, 3)
    assert loss.metrics["alone"] == (2, 3)
    assert loss.metrics["fakes"] == (0, 1)
    assert loss.metrics["straddling"] == (1, batch.real_tokens)
    # A text of one character.
    one = objective.make_batch([[TokenRow(np.array([40]), units=np.array([UNIT], dtype=np.uint8))]], seeded(0))
    assert one.targets_BT.tolist() == [[-100, 40, -100]]
    alone = objective.loss({"model": make_model(**ENCODER)}, one)
    assert (alone.terms["dialogue"].count, alone.terms["dialogue"].sum.item()) == (0, 0)


def test_the_loss_by_hand(make_model: MakeModel) -> None:
    model, objective = make_model(**ENCODER), Ernie(vocabulary=KNOWN, masked=0.4, chunk=3)
    batch = objective.make_batch([[QRQ], [QQR], [text(30)]], seeded(4))
    loss = objective.loss({"model": model}, batch)
    logits = model(batch.tokens_BT, batch.layout)
    told_BT = batch.targets_BT != -100
    expected = F.cross_entropy(logits.tokens_BTV[told_BT], batch.targets_BT[told_BT], reduction="sum")
    torch.testing.assert_close(loss.terms["mlm"].sum, expected, rtol=1e-5, atol=0)
    labels = batch.labels[JUDGED][:2, 0]
    expected = F.cross_entropy(logits.relation_BR[:2], labels, reduction="sum")
    torch.testing.assert_close(loss.terms["dialogue"].sum, expected, rtol=1e-5, atol=0)
    assert (loss.terms["mlm"].count, loss.terms["dialogue"].count) == (int(told_BT.sum()), 2)
    right_BT = logits.tokens_BTV.argmax(-1) == batch.targets_BT
    for number, name in enumerate(LEVELS):
        of_BT = batch.labels[LEVEL] == number
        assert loss.metrics[f"{name}_accuracy"] == (int(right_BT[of_BT].sum()), int(of_BT.sum()))


def test_packed_texts_have_the_loss_of_texts_alone(make_model: MakeModel) -> None:
    """The same texts with the same units hidden, in one window and in a window each."""
    model, objective = make_model(**ENCODER), Ernie(vocabulary=KNOWN, masked=0.4)
    rows = [text(first) for first in (10, 20, 30)]
    alone = objective.make_batch([[row] for row in rows], seeded(6))
    packed = objective.make_batch([rows], seeded(6))
    assert packed.layout.kinds_BT is not None
    assert packed.tokens_BT.tolist() == alone.tokens_BT.reshape(1, -1).tolist()
    one, other = (objective.loss({"model": model}, batch) for batch in (alone, packed))
    torch.testing.assert_close(one.terms["mlm"].sum, other.terms["mlm"].sum, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": MaskedLmOptions()}, "dialogue=true, and head=.* use head=pretraining, or dialogue=false"),
        ({"embedding": EmbeddingOptions(segments=1)}, "segments=1: queries and responses are 2"),
    ],
)
def test_models_that_judge_nothing(changes: dict[str, Any], message: str, make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match=message):
        Ernie(vocabulary=KNOWN).prepare({"model": make_model(**{**ENCODER, **changes})}, [], seeded(0))


def test_bad_input(make_model: MakeModel) -> None:
    for options, message in (
        ({"masked": 1.0}, r"masked=1\.0"),
        ({"phrase": 0.6, "entity": 0.5}, "together at most 1"),
        ({"entity": -0.1}, "0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            Ernie(vocabulary=KNOWN, **options)
    objective = Ernie(vocabulary=KNOWN)
    with pytest.raises(ValueError, match="row 0 has no units"):
        objective.prepare({"model": make_model(**ENCODER)}, [TokenRow([10, 11])], seeded(0))
    control = TokenRow(np.array([PAD, 1]), units=np.array([UNIT, UNIT], dtype=np.uint8))
    with pytest.raises(ValueError, match="all of 4 tokens of this batch are control tokens"):
        objective.make_batch([[control]], seeded(0))


def test_without_dialogue_nothing_is_exchanged(make_model: MakeModel) -> None:
    objective = Ernie(vocabulary=KNOWN, dialogue=False)
    batch: Batch = objective.make_batch([[QRQ, QQR]], seeded(0))
    seen = torch.where(batch.targets_BT == -100, batch.tokens_BT, batch.targets_BT)
    assert seen.tolist() == [[CLS, *QRQ.ids, CLS, *QQR.ids]]
    model = make_model(**{**ENCODER, "head": MaskedLmOptions()})
    assert list(objective.loss({"model": model}, batch).terms) == ["mlm"]
