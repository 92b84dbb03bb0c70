"""Accumulated micro batches against one batch: equal gradients though their supervised counts are uneven."""

from collections.abc import Callable, Mapping

import pytest
import torch

from handscroll.model import Transformer
from handscroll.training import SFT, Loss, Objective, Term, TokenRow
from handscroll.training.accumulation import Accumulator, Averages
from handscroll.training.batch import Batch

MakeModel = Callable[..., Transformer]
MakeRows = Callable[..., list[TokenRow]]
RNG = torch.Generator()


class TwoTerms(SFT):
    """The likelihood, and a penalty counted in another unit that some micro batches do without."""

    def loss(self, models: Mapping[str, Transformer], batch: Batch) -> Loss:
        terms = super().loss(models, batch).terms
        size = models["model"].hidden(batch.tokens_BT, batch.layout).last_BTE.square().sum()
        penalty = Term(size, torch.tensor(batch.real_tokens), weight=0.1)
        extra = {"size": penalty} if batch.real_tokens != 9 else {}
        return Loss({**terms, **extra}, {"rows": float(len(batch.tokens_BT))})


def gradients(model: Transformer, objective: Objective, groups: list[list[TokenRow]]) -> tuple[list, Averages]:
    parameters = list(model.parameters())
    accumulator = Accumulator(parameters, len(groups))
    for rows in groups:
        accumulator.add(objective.loss({"model": model}, objective.make_batch([[row] for row in rows], RNG)))
    averages = accumulator.finish()
    found = [parameter.grad for parameter in parameters]
    model.zero_grad()
    return found, averages


def test_one_of_eight_equals_four_of_two(make_model: MakeModel, make_rows: MakeRows) -> None:
    model = make_model(qkv_bias=True)
    rows = make_rows(4, 30, 7, 3, 22, 9, 16, 5, masked=True)
    whole, one = gradients(model, SFT(), [rows])
    parts, four = gradients(model, SFT(), [rows[i : i + 2] for i in range(0, 8, 2)])
    assert one.loss == pytest.approx(four.loss, abs=1e-6)
    for mine, theirs in zip(parts, whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    # The test can tell: a mean of means is something else.
    means = [gradients(model, SFT(), [rows[i : i + 2]])[1].loss for i in range(0, 8, 2)]
    assert abs(sum(means) / 4 - one.loss) > 1e-3


def test_every_term_is_divided_by_its_own_count(make_model: MakeModel, make_rows: MakeRows) -> None:
    model = make_model()
    rows = make_rows(4, 30, 7, 9, 22, masked=True)
    parts, averages = gradients(model, TwoTerms(), [[row] for row in rows])
    losses = [TwoTerms().loss({"model": model}, TwoTerms().make_batch([[row]], RNG)) for row in rows]
    total = torch.zeros(())
    for name, weight in (("likelihood", 1.0), ("size", 0.1)):
        terms = [loss.terms[name] for loss in losses if name in loss.terms]
        mean = sum(term.sum for term in terms) / sum(int(term.count) for term in terms)
        assert averages.terms[name] == pytest.approx(mean.item(), rel=1e-6)
        total = total + weight * mean
    assert averages.loss == pytest.approx(total.item(), rel=1e-6)
    assert averages.metrics == {"rows": 1.0}
    for mine, theirs in zip(parts, torch.autograd.grad(total, list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_several_terms_in_one_micro_batch(make_model: MakeModel, make_rows: MakeRows) -> None:
    model, rows = make_model(), make_rows(4, 30, 7, masked=True)
    found, averages = gradients(model, TwoTerms(), [rows])
    loss = TwoTerms().loss({"model": model}, TwoTerms().make_batch([[row] for row in rows], RNG))
    total = sum(term.weight * term.sum / term.count for term in loss.terms.values())
    assert averages.loss == pytest.approx(total.item(), rel=1e-6)
    for mine, theirs in zip(found, torch.autograd.grad(total, list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
