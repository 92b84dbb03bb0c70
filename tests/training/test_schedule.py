"""Schedules against their closed forms, and the cosine against PyTorch's own scheduler."""

import math
import warnings

import pytest
import torch

from handscroll.training import SCHEDULES, Constant, Cosine, Schedule, WarmupStableDecay


@pytest.mark.parametrize("schedule", [kind(warmup=4) for kind in SCHEDULES.values()])
def test_contract(schedule: Schedule) -> None:
    values = [schedule.multiplier(step, 50) for step in range(50)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert max(values) == 1.0
    assert min(values) > 0
    # A pure function: no state, in any order.
    assert [schedule.multiplier(step, 50) for step in reversed(range(50))] == values[::-1]
    assert values[4:] == sorted(values[4:], reverse=True)


def test_without_warmup_training_starts_at_the_peak() -> None:
    assert [kind().multiplier(0, 10) for kind in SCHEDULES.values()] == [1.0, 1.0, 1.0]


def test_cosine_equals_pytorch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.1)
    for step in range(40):
        assert Cosine(warmup=10, final=0.1).multiplier(step + 10, 50) == pytest.approx(theirs.get_last_lr()[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer is never stepped
            theirs.step()


def test_cosine_halfway_and_end() -> None:
    assert Cosine(final=0.0).multiplier(50, 100) == pytest.approx(0.5)
    assert Cosine(final=0.2).multiplier(99, 100) == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 0.99)))


def test_wsd_is_stable_then_falls_in_equal_steps() -> None:
    values = [WarmupStableDecay(warmup=2, decay=0.2).multiplier(step, 20) for step in range(20)]
    assert values[2:16] == [1.0] * 14
    assert values[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_wsd_shorter_than_its_parts_never_jumps_up() -> None:
    values = [WarmupStableDecay(warmup=8, decay=0.5).multiplier(step, 10) for step in range(10)]
    assert values == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_constant_stays() -> None:
    assert {Constant().multiplier(step, 7) for step in range(7)} == {1.0}
