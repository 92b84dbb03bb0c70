"""Prefix language modelling and blank infilling as objectives: batches worked by hand, who sees whom, what fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from handscroll.kernels.likelihood import IGNORE
from handscroll.model import Transformer
from handscroll.model.position import Rope2dOptions
from handscroll.training import GLM, PackedSource, PrefixLM, TokenRow, Vocabulary, Window, check_model
from handscroll.training.objectives.glm import Mix, allowed
from handscroll.training.randomness import generator

MakeModel = Callable[..., Transformer]
MASK, SENTENCE, DOCUMENT, START, END = 45, 46, 47, 48, 49
ROLES = {"mask": MASK, "sentence_mask": SENTENCE, "document_mask": DOCUMENT, "span_start": START, "span_end": END}
# Token 9 ends a sentence.
VOCABULARY = Vocabulary(50, ROLES, tuple(ROLES.values()), (9,))


def glm(**options: Any) -> GLM:
    return GLM(**{"vocabulary": VOCABULARY, **options})


def documents(*lengths: int) -> Window:
    return [TokenRow(np.arange(length) % 44 + 1) for length in lengths]


def restored(batch: Any, row: int) -> list[list[int]]:
    """The documents of a window, put together from both parts."""
    tokens_T, targets_T, document_T = (
        x_BT[row].tolist() for x_BT in (batch.tokens_BT, batch.targets_BT, batch.layout.document_BT)
    )
    positions_TP = batch.layout.positions_BTP[row].tolist()
    found = []
    for document in range(max(document_T) + 1):
        places = [t for t in range(len(tokens_T)) if document_T[t] == document]
        part_a = [t for t in places if positions_TP[t][1] == 0]
        spans: dict[int, list[int]] = {}
        for t in places[len(part_a) :]:
            spans.setdefault(positions_TP[t][0], []).append(targets_T[t])
            is_start = positions_TP[t][1] == 1
            assert tokens_T[t] == (START if is_start else targets_T[t - 1])
        assert all(span[-1] == END and END not in span[:-1] for span in spans.values())
        whole: list[int] = []
        for place, t in enumerate(part_a):
            assert positions_TP[t] == [place, 0]
            assert targets_T[t] == IGNORE
            assert (tokens_T[t] >= MASK) == (place in spans)
            whole += spans[place][:-1] if place in spans else [tokens_T[t]]
        found.append(whole)
    return found


@pytest.mark.parametrize("mix", [Mix(1, 0, 0), Mix(0, 1, 0), Mix(0, 0, 1), Mix(1, 1, 1)])
def test_both_parts_hold_the_whole_text(mix: Mix) -> None:
    windows = [documents(40, 2, 61), documents(30)]
    batch = glm(mix=mix, window=128).make_batch(windows, generator(3))
    assert batch.tokens_BT.shape == (2, 128)
    for row, window in enumerate(windows):
        assert restored(batch, row) == [list(document.ids) for document in window]
    masks = {MASK: mix.short, SENTENCE: mix.sentence, DOCUMENT: mix.document}
    found = set(batch.tokens_BT.flatten().tolist()) & set(masks)
    # The document of two tokens has no two sentences: it gets a short span.
    assert found <= {mask for mask, share in masks.items() if share} | ({MASK} if mix.sentence else set())
    if mix in (Mix(1, 0, 0), Mix(0, 1, 0)):
        assert batch.counts["without_sentences"] == (mix.sentence, 4)
    assert batch.counts["left_out"] == (0, 4)
    again = glm(mix=mix, window=128).make_batch(windows, generator(3))
    assert torch.equal(batch.tokens_BT, again.tokens_BT)
    other = glm(mix=mix, window=128).make_batch(windows, generator(4))
    assert not torch.equal(batch.tokens_BT, other.tokens_BT)


def test_who_sees_whom_in_the_papers_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figure 2 (d) of arXiv 2103.10360, behind another document in the same window."""
    drawn = iter([np.array([[0, 1]]), np.array([[2, 3], [4, 6]])])
    monkeypatch.setattr("handscroll.training.objectives.glm.short_spans", lambda *_: next(drawn))
    seeds = (seed for seed in range(99) if (glm_order(seed) == [1, 0]).all())
    batch = glm(mix=Mix(1, 0, 0)).make_batch([documents(2, 6)], generator(next(seeds)))
    # The first document: a blank, its second token, and the blank's span.
    assert batch.tokens_BT[0].tolist() == [MASK, 2, START, 1, 1, 2, MASK, 4, MASK, START, 5, 6, START, 3]
    assert batch.targets_BT[0, 9:].tolist() == [5, 6, END, 3, END]
    assert (batch.layout.positions_BTP[0, 4:, 0] + 1).tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 3, 3]
    assert batch.layout.positions_BTP[0, 4:, 1].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 1, 2]
    seen = batch.layout.mask(kind="prefix")
    assert seen is not None
    figure = [[1] * 5 + [0] * 5] * 5 + [[1] * n + [0] * (10 - n) for n in range(6, 11)]
    assert seen[0, 0, 4:, 4:].int().tolist() == figure
    assert not seen[0, 0, 4:, :4].any()
    assert not seen[0, 0, :4, 4:].any()


def glm_order(seed: int) -> Any:
    """In which order the objective tells two spans of a window's second document."""
    from handscroll.training.randomness import numbers_of

    draws = numbers_of(generator(seed))
    draws.choice(3, 2, p=[1, 0, 0])
    draws.permutation(1)
    return draws.permutation(2)


def test_shares_of_the_mix() -> None:
    window = documents(*[30] * 600)
    batch = glm(mix=Mix(1, 2, 1)).make_batch([window], generator(0))
    tokens_T, second_T = batch.tokens_BT[0], batch.layout.positions_BTP[0, :, 1]
    tasks = [
        int(tokens_T[(batch.layout.document_BT[0] == d) & (second_T == 0) & (tokens_T >= MASK)][0])  # type: ignore[index]
        for d in range(600)
    ]
    for mask, share in ((MASK, 0.25), (SENTENCE, 0.5), (DOCUMENT, 0.25)):
        assert abs(tasks.count(mask) / 600 - share) < 0.06


def test_spans_fit_the_window() -> None:
    rows = [TokenRow(np.arange(length) % 44 + 1) for length in np.random.default_rng(0).integers(8, 300, 300)]
    objective, window = glm(window=128, mix=Mix(1, 0, 0)), 128
    text = objective.text_window(window)
    assert 100 < text < 120
    source, left_out, hidden = PackedSource(rows, text, 8, 0, room=objective.needs.room), 0, []
    for step in range(12):
        windows = source.windows(step, 0)
        batch = objective.make_batch(
            [objective.prepare({}, each, torch.Generator()) for each in windows], generator(step)
        )
        assert batch.tokens_BT.shape == (8, window)
        left_out += batch.counts["left_out"][0]
        hidden.append(np.divide(*batch.counts["hidden"]))
    assert left_out == 0
    assert 0.14 < np.mean(hidden) < 0.18
    assert glm(mix=Mix(0, 0, 1)).text_window(128) == 128


def test_what_has_no_room_is_left_out_and_counted() -> None:
    assert allowed(np.array([10, 10, 10]), 35).tolist() == [1, 1, 0]
    assert allowed(np.array([10, 30]), 60).tolist() == [3, 7]
    batch = glm(window=35, mix=Mix(0, 1, 0)).make_batch([documents(10, 10, 10)], generator(0))
    assert batch.counts["left_out"] == (1, 3)
    assert restored(batch, 0) == [list(each.ids) for each in documents(10, 10)]
    with pytest.raises(ValueError, match=r"none of 1 documents has room for a blank: raise train.window=12"):
        glm(window=12).make_batch([documents(11)], generator(0))


def test_loss_is_that_of_hidden_tokens(make_model: MakeModel) -> None:
    model = make_model(mask="prefix", position=Rope2dOptions(), max_positions=128)
    batch = glm(window=64).make_batch([documents(20, 9), documents(33)], generator(1))
    loss = glm().loss({"model": model}, batch)
    logits_BTV = model(batch.tokens_BT, batch.layout)
    expected = F.cross_entropy(
        logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    torch.testing.assert_close(loss.terms["likelihood"].sum, expected, rtol=1e-5, atol=0)
    assert loss.terms["likelihood"].count == int((batch.targets_BT >= 0).sum())
    assert set(loss.metrics) == {"hidden", "without_sentences", "left_out"}


def test_part_a_can_not_see_what_is_hidden(make_model: MakeModel) -> None:
    """Another hidden token changes no hidden state of part A, nor one of a span that was told before."""
    model = make_model(mask="prefix", position=Rope2dOptions(), max_positions=128)
    batch = glm(mix=Mix(1, 0, 0)).make_batch([documents(40)], generator(1))
    within_T = batch.layout.positions_BTP[0, :, 1]
    second = int((within_T == 1).nonzero()[1]) + 1
    changed_BT = batch.tokens_BT.clone()
    changed_BT[0, second] = 44
    before, after = (model.hidden(tokens_BT, batch.layout).last_BTE for tokens_BT in (batch.tokens_BT, changed_BT))
    torch.testing.assert_close(before[:, :second], after[:, :second], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, second:], after[:, second:])


def test_bad_input(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="2 positions, and the model's, RopeOptions, look at 1: use position: rope_2d"):
        check_model(glm(), make_model(mask="prefix").config)
    for objective in (glm(), PrefixLM()):
        with pytest.raises(ValueError, match=r"mask=causal: .*; use a model with mask=prefix"):
            check_model(objective, make_model().config)
    with pytest.raises(ValueError, match="1 tokens has nothing that a blank is told by"):
        glm().prepare({}, documents(1), torch.Generator())
    for options, words in (
        ({"hidden": 0.6}, "hidden=0.6"),
        ({"mean_length": 0.0}, "mean_length=0.0"),
    ):
        with pytest.raises(ValueError, match=words):
            glm(**options)
    with pytest.raises(ValueError, match="one of them above 0"):
        Mix(0, 0, 0)


def test_prefix_lm_by_hand(make_model: MakeModel) -> None:
    """A prompt and its completion behind another document: the prompt is read whole, the completion told."""
    rows = [TokenRow([1, 2, 3], [False, True, True]), TokenRow([4, 5, 6, 7, 8], [False, False, False, True, True])]
    batch = PrefixLM(window=10).make_batch([rows], generator(0))
    assert batch.tokens_BT[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0]
    assert batch.targets_BT[0].tolist() == [2, 3, IGNORE, IGNORE, IGNORE, 7, 8, IGNORE, IGNORE, IGNORE]
    assert batch.layout.prefix_BT is not None
    assert batch.layout.prefix_BT[0].tolist() == [1] * 3 + [6] * 5 + [0, 0]
    seen = batch.layout.mask(kind="prefix")
    assert seen is not None
    assert seen[0, 0, 3:8, 3:8].int().tolist() == [[1, 1, 1, 0, 0]] * 3 + [[1, 1, 1, 1, 0], [1] * 5]
    model = make_model(mask="prefix")
    term = PrefixLM().loss({"model": model}, batch).terms["likelihood"]
    alone = replace(
        batch.layout,
        document_BT=None,
        index_BT=torch.arange(5)[None],
        positions_BTP=torch.arange(5)[None, :, None],
        prefix_BT=torch.tensor([[3]]),
    )
    logits = model(batch.tokens_BT[:, 3:8], alone)[0]
    first = model(batch.tokens_BT[:, :3])[0]
    expected = F.cross_entropy(torch.cat((first[:2], logits[2:4])), torch.tensor([2, 3, 7, 8]), reduction="sum")
    torch.testing.assert_close(term.sum, expected, rtol=1e-5, atol=0)


def test_random_prefixes_have_every_length_alike() -> None:
    rows = documents(*[6] * 2000)
    batch = PrefixLM().make_batch([[row] for row in rows], generator(0))
    assert batch.layout.prefix_BT is not None
    lengths = torch.bincount(batch.layout.prefix_BT[:, 0], minlength=6).tolist()
    assert lengths[0] == 0
    square = sum((n - 400) ** 2 / 400 for n in lengths[1:])
    assert float(torch.special.gammaincc(torch.tensor(2.0), torch.tensor(square / 2))) > 0.01
    # All that follows a prefix is told, and nothing else.
    told = (batch.targets_BT != IGNORE).sum(1)
    assert torch.equal(told, 6 - batch.layout.prefix_BT[:, 0])


def test_a_mask_that_marks_nothing() -> None:
    with pytest.raises(ValueError, match=r"row 0 \(3 tokens\) has a mask that marks no token"):
        PrefixLM().prepare({}, [TokenRow([1, 2, 3], [True, False, False])], torch.Generator())
    with pytest.raises(ValueError, match="1 tokens has no next token"):
        PrefixLM().prepare({}, documents(1), torch.Generator())
