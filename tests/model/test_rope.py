"""Rotary positions: transformers' angles, exact ones at ten million tokens, and every shape of positions."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import mpmath
import pytest
import torch
from transformers import GlmConfig, LlamaConfig
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding
from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as apply_glm
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from handscroll.model import RopeOptions
from handscroll.model.position import LinearOptions, Rope
from handscroll.model.position.rotary import TABLE_LIMIT

FAR = 10_000_000
THETAS = (1e4, 1e6)
WIDTHS = (6, 20, 64)


@pytest.mark.parametrize(("theta", "width"), list(itertools.product(THETAS, WIDTHS)))
def test_equals_transformers(theta: float, width: int) -> None:
    config = LlamaConfig(head_dim=width, rope_parameters={"rope_theta": theta, "rope_type": "default"})
    rope = Rope(width, RopeOptions(theta), max_positions=100)
    x, positions_T = torch.randn(2, 3, 128, width), torch.arange(128)
    cosine, sine = LlamaRotaryEmbedding(config)(x, positions_T[None])
    rotation = rope.rotation(positions_T)
    # Their angles are float32 products: off by 128 * 6e-8 at the last position.
    torch.testing.assert_close(rotation.cosine, cosine[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(rotation.sine[:, width // 2 :], sine[0, :, width // 2 :], atol=2e-5, rtol=0)
    theirs, _ = apply_rotary_pos_emb(x, x, cosine, sine)
    torch.testing.assert_close(rope.rotate(x, rotation), theirs, atol=1e-4, rtol=0)


def exact_angles(position: int, theta: float, width: int) -> list[mpmath.mpf]:
    """position * theta^(-2i/D) for every pair, to fifty digits."""
    return [position * mpmath.power(theta, mpmath.mpf(-2 * pair) / width) for pair in range(width // 2)]


@pytest.mark.parametrize(("theta", "width"), list(itertools.product(THETAS, WIDTHS)))
@pytest.mark.parametrize("position", [1, 511, TABLE_LIMIT - 1, TABLE_LIMIT, FAR])
def test_angles_are_exact(position: int, theta: float, width: int) -> None:
    rotation = Rope(width, RopeOptions(theta), max_positions=512).rotation(torch.tensor([position]))
    with mpmath.workdps(50):
        angles = exact_angles(position, theta, width)
        cosine = torch.tensor([[float(mpmath.cos(angle)) for angle in angles]])
        sine = torch.tensor([[float(mpmath.sin(angle)) for angle in angles]])
    torch.testing.assert_close(rotation.cosine, torch.cat((cosine, cosine), -1), atol=1e-7, rtol=0)
    torch.testing.assert_close(rotation.sine, torch.cat((-sine, sine), -1), atol=1e-7, rtol=0)


@pytest.mark.parametrize("distance", [0, 1, 37, 511])
def test_score_at_ten_million_is_exact(distance: int) -> None:
    """A score depends on the distance alone, so it is known exactly; angles in float32 miss it by far."""
    width = 64
    rope = Rope(width, RopeOptions(), max_positions=512)
    query_D, key_D = torch.randn(width), torch.randn(width)

    def score(query_position: int, key_position: int) -> float:
        places = rope.rotation(torch.tensor([query_position, key_position]))
        query, key = rope.rotate(torch.stack((query_D, key_D))[None, None], places)[0, 0]
        return float(query @ key)

    with mpmath.workdps(50):
        exact = mpmath.mpf(0)
        for pair, angle in enumerate(exact_angles(distance, 1e4, width)):
            query, key = (mpmath.mpc(float(x[pair]), float(x[pair + width // 2])) for x in (query_D, key_D))
            exact += (query * mpmath.conj(key) * mpmath.expj(angle)).real
    assert abs(score(FAR, FAR - distance) - float(exact)) < 1e-5
    assert abs(score(distance, 0) - float(exact)) < 1e-5

    def rounded(position: int) -> torch.Tensor:
        return torch.polar(torch.ones(width // 2), torch.tensor(float(position)) * rope.frequencies.float())

    if distance:
        pairs = torch.complex(*query_D.chunk(2)) * torch.complex(*key_D.chunk(2)).conj()
        wrong = float((pairs * rounded(FAR) * rounded(FAR - distance).conj()).real.sum())
        assert abs(wrong - float(exact)) > 1e-2


def test_positions_of_every_shape() -> None:
    rope = Rope(8, RopeOptions(), max_positions=16)
    x_BHTD = torch.randn(2, 3, 5, 8)
    positions_BHT = torch.randint(0, 300, (2, 3, 5))
    one_by_one = torch.stack(
        [
            rope.rotate(x_BHTD[b : b + 1, h : h + 1, t : t + 1], rope.rotation(positions_BHT[b, h, t : t + 1]))[0, 0, 0]
            for b, h, t in itertools.product(range(2), range(3), range(5))
        ]
    ).view(x_BHTD.shape)
    assert torch.equal(rope.rotate(x_BHTD, rope.rotation(positions_BHT)), one_by_one)
    per_row = rope.rotate(x_BHTD, rope.rotation(positions_BHT[:, 0]))
    assert torch.equal(per_row[:, 0], one_by_one[:, 0])
    shared = rope.rotate(x_BHTD, rope.rotation(positions_BHT[0, 0]))
    assert torch.equal(shared[0, 0], one_by_one[0, 0])
    for pairing, numbers in (("halves", 8), ("adjacent", 4)):
        position = Rope(8, RopeOptions(pairing=pairing), max_positions=16)
        nowhere = position.rotation(torch.empty(0, dtype=torch.long))
        assert nowhere.cosine.shape == (0, numbers)
        assert position.rotate(x_BHTD[:, :, :0], nowhere).shape == (2, 3, 0, 8)


def test_table_agrees_with_direct_angles() -> None:
    """Whatever was asked before, and however far or negative a position is, its angle is the same."""
    rope = Rope(16, RopeOptions(), max_positions=8)
    near = torch.tensor([0, 7, 8, 4095, 4096, 5000])
    for positions in (near, torch.tensor([3, TABLE_LIMIT - 1]), torch.tensor([3, TABLE_LIMIT]), torch.tensor([-1, 3])):
        rotation = rope.rotation(positions)
        angles = positions.double()[:, None] * rope.frequencies
        cosine, sine = angles.cos().float(), angles.sin().float()
        assert torch.equal(rotation.cosine, torch.cat((cosine, cosine), -1))
        assert torch.equal(rotation.sine, torch.cat((-sine, sine), -1))
    assert torch.equal(rope.rotation(near).cosine, Rope(16, RopeOptions(), max_positions=8).rotation(near).cosine)


def test_heads_of_an_odd_width_can_be_turned_in_part() -> None:
    x_BTHF = torch.randn(1, 4, 3, 11)
    rope = Rope(8, RopeOptions(pairing="adjacent", share=0.75), max_positions=16)
    rotation = rope.rotation(torch.arange(4))
    expected = rope.rotate(x_BTHF[..., :8].transpose(1, 2).contiguous(), rotation)
    assert torch.equal(rope.rotate(x_BTHF.transpose(1, 2), rotation)[..., :8], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("pairing", ["halves", "adjacent"])
def test_keeps_the_dtype(dtype: torch.dtype, pairing: str) -> None:
    rope = Rope(8, RopeOptions(pairing=pairing), max_positions=16)
    x = torch.randn(1, 2, 4, 8).to(dtype)
    turned = rope.rotate(x, rope.rotation(torch.arange(4)))
    assert turned.dtype == dtype
    torch.testing.assert_close(turned.float().norm(dim=-1), x.float().norm(dim=-1), rtol=2e-2, atol=0)


@pytest.mark.parametrize(("width", "share"), [(16, 1.0), (20, 0.5), (64, 0.25)])
def test_adjacent_pairs_and_shares_equal_transformers(width: int, share: float) -> None:
    config = GlmConfig(head_dim=width, rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": share})
    rope = Rope(int(width * share), RopeOptions(1e4, "adjacent", share), max_positions=100)
    x, positions_T = torch.randn(2, 3, 128, width), torch.arange(128)
    theirs, _ = apply_glm(x, x, *GlmRotaryEmbedding(config)(x, positions_T[None]))
    torch.testing.assert_close(rope.rotate(x, rope.rotation(positions_T)), theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_pairing_is_an_order_of_features(share: float) -> None:
    """Halves of a head whose features were put in the other order; what isn't turned comes back bit for bit."""
    turned = int(16 * share)
    halves, adjacent = (Rope(turned, RopeOptions(1e4, pairing, share), 32) for pairing in ("halves", "adjacent"))
    x_BHTF, places_T = torch.randn(2, 3, 32, 16), torch.arange(32)
    order = [*range(0, turned, 2), *range(1, turned, 2), *range(turned, 16)]
    expected = halves.rotate(x_BHTF[..., order], halves.rotation(places_T))
    found = adjacent.rotate(x_BHTF, adjacent.rotation(places_T))[..., order]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    for rope in (halves, adjacent):
        assert torch.equal(rope.rotate(x_BHTF, rope.rotation(places_T))[..., turned:], x_BHTF[..., turned:])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pairing": "crossed"}, r"pairing='crossed': the features of a head are paired as halves or adjacent"),
        ({"share": 0.0}, r"share=0\.0: how much of a head is turned, more than 0, at most 1"),
        ({"share": 1.5}, r"share=1\.5: how much"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], says: str) -> None:
    for kind in (RopeOptions, partial(LinearOptions, factor=2.0)):
        with pytest.raises(ValueError, match=says):
            kind(**options)


@pytest.mark.parametrize(("share", "says"), [(0.3, "3 features would be turned"), (0.01, "which is none")])
def test_a_share_that_is_no_pairs_is_refused(share: float, says: str) -> None:
    with pytest.raises(ValueError, match=rf"head_width=10 with share={share}: .*{says}"):
        RopeOptions(share=share).check_head(10)
