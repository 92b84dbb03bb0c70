"""What routers add to a loss, against the same written out from what the forward pass told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from handscroll.model import Transformer
from handscroll.model.routing import ExpertOptions, balance_loss, z_loss_sum
from handscroll.training import SFT, CausalLM, TokenRow
from handscroll.training.accumulation import Accumulator
from handscroll.training.objectives import Loss

MakeModel = Callable[..., Transformer]
MakeRows = Callable[..., list[TokenRow]]
RNG = torch.Generator()
EXPERTS = ExpertOptions(4, 12, balance_loss=0.02, router_z_loss=0.003)


@pytest.mark.parametrize("objective", [CausalLM(), CausalLM(z_loss=1e-3), SFT()])
@pytest.mark.parametrize("recompute", [False, True])
def test_terms_are_means_over_tokens_and_layers(
    objective: Any, recompute: bool, make_model: MakeModel, make_rows: MakeRows
) -> None:
    model = make_model(experts=EXPERTS)
    model.activation_checkpointing = recompute
    batch = objective.make_batch([make_rows(9, 6, masked=True), make_rows(12, masked=True)], RNG)
    loss = objective.loss({"model": model}, batch)
    told = [each.aux for each in model.hidden(batch.tokens_BT, batch.layout).aux]
    assert [each.tokens for each in told] == [27, 27]
    assert list(loss.terms) == ["likelihood", "balance", "router_z"]
    balance, z = loss.terms["balance"], loss.terms["router_z"]
    assert balance.count is z.count
    assert (int(z.count), balance.weight, z.weight) == (54, 0.02, 0.003)
    torch.testing.assert_close(balance.sum / balance.count, sum(balance_loss(each) for each in told) / 2)
    torch.testing.assert_close(z.sum, sum(z_loss_sum(each) for each in told))
    busiest = [max(each.asked) / (27 * 2 / 4) for each in told]
    assert loss.metrics["busiest_expert"] == pytest.approx(sum(busiest) / 2)
    assert 0 <= loss.metrics["idlest_expert"] <= 1 <= loss.metrics["busiest_expert"] <= 2
    assert "dropped_choices" not in loss.metrics


def test_the_last_router_judges_wanted_places_alone(make_model: MakeModel, make_rows: MakeRows) -> None:
    rows = [TokenRow(row.ids, [False] * 10 + [True] * 2) for row in make_rows(12, 12)]
    loss = SFT().loss({"model": make_model(experts=EXPERTS)}, SFT().make_batch([[row] for row in rows], RNG))
    assert int(loss.terms["balance"].count) == 24 + 4


def test_no_weight_no_term(make_model: MakeModel, make_rows: MakeRows) -> None:
    batch = CausalLM().make_batch([make_rows(9)], RNG)

    def loss(experts: ExpertOptions | None) -> Loss:
        model = make_model(experts=experts)
        model.train()
        return CausalLM().loss({"model": model}, batch)

    assert list(loss(ExpertOptions(4, 12, balance_loss=0, router_z_loss=0)).terms) == ["likelihood"]
    assert loss(None).metrics == {}
    assert list(loss(None).terms) == ["likelihood"]
    capped = loss(ExpertOptions(4, 12, capacity_factor=0.5)).metrics["dropped_choices"]
    # Capacity ceil(0.5 * 18 / 4) = 3 of each: 12 of 18 choices at most.
    assert 6 / 18 <= capped < 1


def test_accumulated_gradients_are_those_of_the_means(make_model: MakeModel, make_rows: MakeRows) -> None:
    """One backward pass for the likelihood and one for both of the router's terms, whose count they share."""
    model = make_model(experts=EXPERTS)
    batches = [CausalLM().make_batch([[row]], RNG) for row in make_rows(5, 20, 9)]
    accumulator, passes = Accumulator(list(model.parameters()), 3, lambda loss: passes.append(loss) or loss), []
    for batch in batches:
        accumulator.add(CausalLM().loss({"model": model}, batch))
    averages = accumulator.finish()
    found = [parameter.grad for parameter in model.parameters()]
    losses = [CausalLM().loss({"model": model}, batch) for batch in batches]
    total = torch.zeros(())
    for name in losses[0].terms:
        terms = [loss.terms[name] for loss in losses]
        mean = sum(term.sum for term in terms) / sum(int(term.count) for term in terms)
        assert averages.terms[name] == pytest.approx(mean.item(), rel=1e-6)
        total = total + terms[0].weight * mean
    assert averages.loss == pytest.approx(total.item(), rel=1e-6)
    assert len(passes) == 2 * 3
    for mine, theirs in zip(found, torch.autograd.grad(total, list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
