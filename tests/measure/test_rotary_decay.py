"""RoFormer's bound by its equations written out, scores against the model's own rotation, and what decays of them."""

import math

import pytest
import torch

from handscroll.measure.rotary_decay import bound, mean_sizes, same_content
from handscroll.model import RopeOptions
from handscroll.model.position.rope import Rope
from handscroll.model.position.rotary import frequencies

WIDTH, PAIRS = 64, 32
TURNS = frequencies(WIDTH, 10000.0)
DISTANCES = torch.tensor([0, 1, 7, 100, 5000])


def test_the_bound_is_the_mean_of_partial_sums() -> None:
    """Equation 37, with Python's own complex numbers."""
    expected = []
    for distance in DISTANCES.tolist():
        sums, total = [], 0j
        for pair in range(PAIRS):
            angle = distance * 10000 ** (-2 * pair / WIDTH)
            total += complex(math.cos(angle), math.sin(angle))
            sums.append(abs(total))
        expected.append(sum(sums) / PAIRS)
    torch.testing.assert_close(bound(DISTANCES, TURNS), torch.tensor(expected, dtype=torch.float64))
    assert bound(torch.zeros(1), TURNS).item() == (PAIRS + 1) / 2


def test_no_score_is_above_its_bound() -> None:
    """Equations 35 and 36, of scores that the model's rotation gives; h of one pair too many is 0."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(200, 1, 1, WIDTH, generator=generator) for _ in range(2))
    rope = Rope(WIDTH, RopeOptions(pairing="adjacent"), 8192)
    pairs = [torch.view_as_complex(each.view(200, PAIRS, 2).double()) for each in (query, key)]
    products = torch.cat((pairs[0] * pairs[1].conj(), torch.zeros(200, 1)), 1)
    steps = products.diff(dim=1).abs().amax(1)
    for distance, limit in zip(DISTANCES.tolist(), bound(DISTANCES, TURNS).tolist(), strict=True):
        turned = [rope.rotate(each, rope.rotation(torch.tensor([at]))) for each, at in ((query, distance), (key, 0))]
        scores = (turned[0] * turned[1]).sum((1, 2, 3)).double()
        assert (scores.abs() <= steps * PAIRS * limit).all()


def test_scores_are_those_of_the_models_rotation() -> None:
    generator = torch.Generator().manual_seed(0)
    rope = Rope(WIDTH, RopeOptions(), 8192)
    query, other = (torch.randn(1, 1, 20_000, WIDTH, generator=generator) for _ in range(2))
    key = 0.6 * query + 0.8 * other
    here = rope.rotate(key, rope.rotation(torch.zeros(20_000, dtype=torch.long)))
    self_scores, sizes = [], []
    for distance in DISTANCES.tolist():
        turned = rope.rotate(query, rope.rotation(torch.full((20_000,), distance)))
        self_scores.append((turned * query).sum(-1).mean() / WIDTH)
        sizes.append((turned * here).sum(-1).abs().mean() / math.sqrt(WIDTH))
    torch.testing.assert_close(same_content(DISTANCES, TURNS).float(), torch.stack(self_scores), atol=0.01, rtol=0)
    torch.testing.assert_close(mean_sizes(DISTANCES, TURNS, 0.6).float(), torch.stack(sizes), atol=0.1, rtol=0)


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_what_decays_and_what_does_not(theta: float) -> None:
    turns, tens = frequencies(WIDTH, theta), torch.tensor([1, 10, 100, 1000])
    assert (bound(tens, turns).diff() < 0).all()
    assert (same_content(tens, turns).diff() < 0).all()
    assert (mean_sizes(tens, turns, 1.0).diff() < 0).all()
    # Vectors that have nothing in common, turned, still have nothing: a normal number is sqrt(2 / pi) large on average.
    torch.testing.assert_close(
        mean_sizes(tens, turns, 0.0), torch.full((4,), math.sqrt(2 / math.pi), dtype=torch.float64), atol=0.05, rtol=0
    )
