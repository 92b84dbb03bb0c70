"""The contract of every objective, and each one's loss against a loss written out by hand."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from handscroll.model import Transformer
from handscroll.model.heads import LmHeadOptions, MaskedLmOptions, NormalizedHeadOptions, SpanOptions
from handscroll.training import (
    SFT,
    Batch,
    CausalLM,
    Evaluation,
    Objective,
    PackedSource,
    Progress,
    TokenRow,
    TrainOptions,
    check_model,
    checkpoint,
    train,
)
from handscroll.training.objectives.objective import TokenLoss, told_places

RNG = torch.Generator()
MakeModel = Callable[..., Transformer]
MakeRows = Callable[..., list[TokenRow]]
MakeObjective = Callable[..., Objective]


@pytest.mark.parametrize("tied", [True, False])
def test_contract(
    make_objective: MakeObjective, suited: Mapping[str, Any], tied: bool, make_model: MakeModel, make_rows: MakeRows
) -> None:
    objective, models = make_objective(), {"model": make_model(tied_embeddings=tied, qkv_bias=True, **suited)}
    check_model(objective, models["model"].config)
    rows = objective.prepare(models, make_rows(9, 6, 12, masked=True), RNG)
    batch = objective.make_batch([rows[:2], rows[2:]], RNG)
    loss = objective.loss(models, batch)
    assert all(int(term.count) > 0 and term.sum.ndim == 0 for term in loss.terms.values())
    sum(term.sum for term in loss.terms.values()).backward()
    # A key bias shifts all of a query's scores alike, so that softmax takes its gradient away up to rounding.
    without = [name for name, p in models["model"].named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in without if not name.endswith("attention.k.bias")] == []
    # Norms with running statistics have them from what a loss hands over.
    models["model"] = make_model(tied_embeddings=tied, norm="batch", **suited).train()
    assert len(objective.loss(models, batch).told["model"]) == 5


def test_a_stopped_run_goes_on_to_the_same_bits(
    make_objective: MakeObjective, suited: Mapping[str, Any], make_model: MakeModel, make_rows: MakeRows, tmp_path: Path
) -> None:
    """With two micro batches a step, several texts a window, and an evaluation."""
    objective = make_objective()
    rows = make_rows(9, 14, 20, 11, 9, 16, masked=True)
    source = PackedSource(rows, 32, 2, seed=3, accumulation=2, room=objective.needs.room)
    options = TrainOptions(4, accumulation=2, checkpoint_every=2)
    evaluation = Evaluation([source.windows(9, 0)], every=2)

    def run(folder: Path, steps: int = 4) -> list[Progress]:
        model = {"model": make_model(**suited)}
        found = train(model, objective, source, options, folder, resume=True, evaluation=evaluation)
        return [*itertools.islice(found, steps)]

    whole = run(tmp_path / "whole")
    run(tmp_path / "stopped", 2)
    resumed = run(tmp_path / "stopped")
    assert [step.step for step in resumed] == [3, 4]
    for ours, theirs in zip(resumed, whole[2:], strict=True):
        assert (ours.loss, ours.terms, ours.metrics) == (theirs.loss, theirs.terms, theirs.metrics)
    assert resumed[-1].evaluation == whole[-1].evaluation
    last = [tmp_path / name / "step-000004" / checkpoint.MODEL for name in ("whole", "stopped")]
    assert last[0].read_bytes() == last[1].read_bytes()


def by_hand(model: Transformer, row: TokenRow, supervised: np.ndarray) -> torch.Tensor:
    tokens = torch.tensor(np.asarray(row.ids))
    losses = F.cross_entropy(model(tokens[None])[0, :-1], tokens[1:], reduction="none")
    return losses[torch.from_numpy(supervised[1:])].sum()


def test_causal_lm_supervises_every_next_token(make_model: MakeModel, make_rows: MakeRows) -> None:
    model, rows = make_model(), make_rows(9, 6, masked=True)
    term = CausalLM().loss({"model": model}, CausalLM().make_batch([rows], RNG)).terms["likelihood"]
    assert term.count == 8 + 5
    expected = sum(by_hand(model, row, np.ones(len(row.ids), dtype=bool)) for row in rows)
    torch.testing.assert_close(term.sum, expected, rtol=1e-5, atol=0)


def test_sft_supervises_where_the_mask_says(make_model: MakeModel, make_rows: MakeRows) -> None:
    model, rows = make_model(), make_rows(9, 6, masked=True)
    term = SFT().loss({"model": model}, SFT().make_batch([rows], RNG)).terms["likelihood"]
    assert term.count == 5 + 3
    expected = sum(by_hand(model, row, np.asarray(row.supervised)) for row in rows)
    torch.testing.assert_close(term.sum, expected, rtol=1e-5, atol=0)


def test_few_supervised_places_have_the_loss_of_all(make_model: MakeModel, make_rows: MakeRows) -> None:
    model, (first, second) = make_model(), make_rows(12, 12)
    masks = [np.isin(np.arange(12), places) for places in ([3, 11], [1, 2, 7, 8])]
    rows = [TokenRow(row.ids, mask) for row, mask in zip((first, second), masks, strict=True)]
    batch = SFT().make_batch([[row] for row in rows], RNG)
    places_BQ = told_places(batch.targets_BT != -100)
    assert places_BQ is not None
    assert places_BQ.shape == (2, 4)
    assert places_BQ[1].tolist() == [0, 1, 6, 7]
    term = SFT().loss({"model": model}, batch).terms["likelihood"]
    expected = sum(by_hand(model, row, mask) for row, mask in zip(rows, masks, strict=True))
    assert term.count == 6
    torch.testing.assert_close(term.sum, expected, rtol=1e-5, atol=0)


def test_mostly_supervised_rows_are_taken_whole() -> None:
    assert told_places(torch.ones(2, 8, dtype=torch.bool)) is None


def test_crossbatch_sees_its_own_past_and_what_precedes_the_first_answer_of_others() -> None:
    masks = [[False, False, True, True], [False, True, False, True], [False, False, False, True]]
    windows = [[TokenRow([1, 2, 3, 4], masks[0])], [TokenRow([5, 6, 7, 8], masks[1]), TokenRow([9, 1, 2, 3], masks[2])]]
    batch = SFT(crossbatch=(0,)).make_batch(windows, RNG)
    assert batch.crossbatch is not None
    assert batch.crossbatch.asking_Q.tolist() == [1, 2, 8, 10, 14]
    seen = [[place for place, is_seen in enumerate(row) if is_seen] for row in batch.crossbatch.visible_QS.tolist()]
    context, other = [0, 1], [8]
    assert seen == [[0, 1, *other], [0, 1, 2, *other], [0, 8], [*context, 8, 9, 10], [*context, 12, 13, 14]]
    far = SFT(crossbatch=(0,), crossbatch_distance=2).make_batch(windows, RNG).crossbatch
    assert far is not None
    seen = [[place for place, is_seen in enumerate(row) if is_seen] for row in far.visible_QS.tolist()]
    assert seen == [[0, 1], [0, 1, 2, *other], [8], [0, 8, 9, 10], [*context, 12, 13, 14]]
    few = SFT(crossbatch=(0,), crossbatch_tokens=3).make_batch(windows, RNG).crossbatch
    assert few is not None
    assert len(few.asking_Q) == 3
    assert set(few.asking_Q.tolist()) < {1, 2, 8, 10, 14}
    again = [SFT(crossbatch=(0,), crossbatch_tokens=3).make_batch(windows, RNG.manual_seed(4)) for _ in range(2)]
    assert again[0].crossbatch is not None
    assert again[1].crossbatch is not None
    assert torch.equal(again[0].crossbatch.asking_Q, again[1].crossbatch.asking_Q)


def test_crossbatch_depends_on_what_other_windows_say_before_their_answers(
    make_model: MakeModel, make_rows: MakeRows
) -> None:
    models, objective = {"model": make_model(num_layers=3)}, SFT(crossbatch=(1,))
    first, second = make_rows(12, 12, masked=True)
    mask = np.arange(12) >= 8

    def loss(other: list[int], objective: SFT) -> torch.Tensor:
        # The other window's answers weigh nothing: only the first window's loss is compared.
        batch = objective.make_batch([[TokenRow(first.ids, mask)], [TokenRow(other, mask)]], RNG)
        targets_BT = batch.targets_BT.clone()
        targets_BT[1] = -100
        return (
            objective.loss(models, Batch(batch.tokens_BT, batch.layout, targets_BT, batch.crossbatch))
            .terms["likelihood"]
            .sum
        )

    ids = [int(token) for token in second.ids]
    said_before, answered = [*ids[:3], ids[3] % 49 + 1, *ids[4:]], [*ids[:10], ids[10] % 49 + 1, ids[11]]
    assert not torch.isclose(loss(ids, objective), loss(said_before, objective), rtol=1e-5)
    torch.testing.assert_close(loss(ids, objective), loss(answered, objective), rtol=1e-6, atol=0)
    torch.testing.assert_close(loss(ids, SFT()), loss(said_before, SFT()), rtol=1e-6, atol=0)
    assert not torch.isclose(loss(ids, objective), loss(ids, SFT()), rtol=1e-5)


def test_a_window_alone_has_no_one_to_look_at(make_model: MakeModel, make_rows: MakeRows) -> None:
    models, rows = {"model": make_model(num_layers=3)}, make_rows(12, masked=True)
    losses = [
        objective.loss(models, objective.make_batch([rows], RNG)).terms["likelihood"].sum
        for objective in (SFT(), SFT(crossbatch=(0, 1)))
    ]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


def test_layers_that_no_crossbatch_can_have(make_model: MakeModel, make_rows: MakeRows) -> None:
    with pytest.raises(ValueError, match="counted from 0"):
        SFT(crossbatch=(-1,))
    with pytest.raises(ValueError, match="layers before the last are 0 to 0"):
        SFT(crossbatch=(1,)).prepare({"model": make_model()}, make_rows(6, masked=True), RNG)
    with pytest.raises(ValueError, match="at least 1 token"):
        SFT(crossbatch=(1,), crossbatch_tokens=0)


def test_options_reach_the_batch(make_objective: MakeObjective, make_rows: MakeRows) -> None:
    objective = make_objective(pad_id=7, window=16)
    batch = objective.make_batch([make_rows(9, masked=True)], RNG)
    assert batch.tokens_BT.shape == (1, 16)
    assert 9 <= batch.real_tokens <= 16
    assert batch.tokens_BT[0, batch.real_tokens :].tolist() == [7] * (16 - batch.real_tokens)
    assert batch.supervised_tokens > 0


def test_a_batch_is_a_function_of_rows_and_seed(make_objective: MakeObjective, make_rows: MakeRows) -> None:
    objective, rows = make_objective(), make_rows(9, 12, 20, 7, masked=True)
    one, other, third = (objective.make_batch([rows[:2], rows[2:]], RNG.manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.tokens_BT, other.tokens_BT)
    assert torch.equal(one.targets_BT, other.targets_BT)
    assert all(torch.equal(labels_BT, other.labels[name]) for name, labels_BT in one.labels.items())
    assert torch.equal(one.targets_BT, third.targets_BT) is not bool(objective.needs.roles)


def test_an_empty_mask_is_an_error_that_says_what_to_do() -> None:
    empty = TokenRow([1, 2, 3], [False, False, False])
    # A first token is never predicted, so that supervising it alone supervises nothing.
    first = TokenRow([1, 2, 3], [True, False, False])
    for row in (empty, first):
        with pytest.raises(ValueError, match=r"none of the 3 tokens .* mark what the assistant says"):
            SFT().make_batch([[row]], RNG)
        with pytest.raises(ValueError, match=r"row 1 \(3 tokens\) supervises no token: mark"):
            SFT().prepare({}, [TokenRow([1, 2], [False, True]), row], RNG)
    with pytest.raises(ValueError, match="row 0 has no mask"):
        SFT().prepare({}, [TokenRow([1, 2])], RNG)
    with pytest.raises(ValueError, match="no token of this batch has a next one"):
        CausalLM().make_batch([[TokenRow([1]), TokenRow([2])]], RNG)
    with pytest.raises(ValueError, match="1 tokens has no next token"):
        CausalLM().prepare({}, [TokenRow([1])], RNG)


@pytest.mark.parametrize("kind", [CausalLM, SFT])
def test_smoothing_and_z_loss(kind: type[TokenLoss], make_model: MakeModel, make_rows: MakeRows) -> None:
    """Against PyTorch's loss of the same logits; the metric is the likelihood without either."""
    model, rows = make_model(), make_rows(9, masked=True)
    objective = kind(label_smoothing=0.2, z_loss=0.05)
    batch = objective.make_batch([rows], RNG)
    loss = objective.loss({"model": model}, batch)
    supervised_T = batch.targets_BT[0] != -100
    logits_TV, targets_T = model(batch.tokens_BT)[0][supervised_T].detach(), batch.targets_BT[0][supervised_T]
    expected = F.cross_entropy(logits_TV, targets_T, reduction="sum", label_smoothing=0.2)
    expected = expected + 0.05 * logits_TV.exp().sum(-1).log().square().sum()
    torch.testing.assert_close(loss.terms["likelihood"].sum, expected, rtol=1e-5, atol=0)
    assert loss.metrics["nll"] == pytest.approx(float(F.cross_entropy(logits_TV, targets_T)), rel=1e-5)
    assert kind().loss({"model": model}, batch).metrics == {}


def test_impossible_losses() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing=1\.0: a part of each target, 0 or more and below 1"):
        CausalLM(label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"z_loss=inf: a weight, 0 or more, such as 1e-4"):
        SFT(z_loss=float("inf"))


@pytest.mark.parametrize("kind", [CausalLM, SFT])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mask": "bidirectional"}, "mask=bidirectional"),
        ({"head": SpanOptions()}, "head=span tells no tok"),
    ],
)
def test_a_model_that_tells_no_next_token(
    kind: type[TokenLoss], changes: dict[str, Any], says: str, make_model: MakeModel
) -> None:
    config = dataclasses.replace(make_model().config, **changes)
    with pytest.raises(ValueError, match=says):
        check_model(kind(), config)


@pytest.mark.parametrize("head", [NormalizedHeadOptions(), MaskedLmOptions(), LmHeadOptions(bias=True)], ids=str)
def test_every_head_over_the_vocabulary_is_trained(head: Any, make_model: MakeModel, make_rows: MakeRows) -> None:
    """Against PyTorch's loss of the head's own logits."""
    model = Transformer(dataclasses.replace(make_model().config, head=head))
    batch = CausalLM(chunk=4).make_batch([make_rows(9)], RNG)
    loss = CausalLM(chunk=4).loss({"model": model}, batch).terms["likelihood"]
    expected = F.cross_entropy(model(batch.tokens_BT, batch.layout)[0], batch.targets_BT[0], reduction="sum")
    torch.testing.assert_close(loss.sum, expected, rtol=1e-5, atol=0)
    loss.sum.backward()
    assert all(each.grad is not None and each.grad.any() for each in model.head.parameters())
