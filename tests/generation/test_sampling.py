"""How a token is drawn: the frequencies are the softmax's, a seed decides, a row's neighbours don't."""

from __future__ import annotations

import pytest
import torch

from handscroll.generation import Sampler, Sampling

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, 1.5])
# The 99.9th percentile of chi-square with 7 degrees of freedom (NIST/SEMATECH e-Handbook, section 1.3.6.7.4).
CRITICAL = 24.322
DRAWS = 4000


def chi_square(tokens: list[int], temperature: float) -> float:
    expected_V = (LOGITS / temperature).softmax(0) * len(tokens)
    observed_V = torch.bincount(torch.tensor(tokens), minlength=len(LOGITS))
    return float(((observed_V - expected_V) ** 2 / expected_V).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_one_streams_frequencies_are_the_softmax(temperature: float) -> None:
    sampler = Sampler(Sampling(temperature, seed=1), 1)
    tokens = [sampler.pick(LOGITS[None], [0])[0] for _ in range(DRAWS)]
    assert chi_square(tokens, temperature) < CRITICAL
    assert chi_square(tokens, temperature * 2) > CRITICAL


def test_first_draws_of_many_seeds_are_the_softmax() -> None:
    tokens = [Sampler(Sampling(1.0, seed), 1).pick(LOGITS[None], [0])[0] for seed in range(DRAWS)]
    assert chi_square(tokens, 1.0) < CRITICAL


def test_greedy_is_the_likeliest_whatever_the_seed() -> None:
    for seed in range(3):
        assert Sampler(Sampling(0.0, seed), 2).pick(torch.stack((LOGITS, -LOGITS)), [0, 1]) == [0, 6]


def test_a_low_temperature_comes_close_to_greedy() -> None:
    sampler = Sampler(Sampling(0.01, seed=3), 1)
    assert {sampler.pick(LOGITS[None], [0])[0] for _ in range(100)} == {0}


def test_a_row_draws_from_its_own_stream() -> None:
    """Row 2 gets the same tokens whether rows 0 and 1 are there, have left, or come after it."""
    logits_BV = torch.stack((LOGITS, -LOGITS, LOGITS / 2))
    together, others_left = Sampler(Sampling(1.0, 7), 3), Sampler(Sampling(1.0, 7), 3)
    expected = [together.pick(logits_BV, [0, 1, 2])[2] for _ in range(50)]
    drawn = [others_left.pick(logits_BV, [0, 1, 2])[2] for _ in range(20)]
    drawn += [others_left.pick(logits_BV[[2, 0]], [2, 0])[0] for _ in range(15)]
    drawn += [others_left.pick(logits_BV[2:], [2])[0] for _ in range(15)]
    assert drawn == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("temperature", [-0.1, float("inf"), float("nan")])
def test_impossible_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature="):
        Sampling(temperature)
