"""Stretched rotary positions: transformers' frequencies and attention factors, and what the papers say of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from handscroll.model import ModelConfig, RopeOptions
from handscroll.model.families.rope import read_rope
from handscroll.model.position import (
    DynamicOptions,
    LinearOptions,
    Llama3Options,
    LongRopeOptions,
    NtkOptions,
    YarnOptions,
    make_position,
)

ORIGINAL, WINDOW = 64, 256
THETA = 1e4


def factors(width: int, last: float) -> list[float]:
    return torch.linspace(1, last, width // 2).tolist()


def settings(width: int) -> dict[str, dict[str, Any]]:
    """What a config.json may say, by a name for it."""
    original = {"original_max_position_embeddings": ORIGINAL}
    yarn = {"rope_type": "yarn", "factor": 4.0, **original}
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **original}
    longrope = {"rope_type": "longrope", "short_factor": factors(width, 1.5), "long_factor": factors(width, 9.0)}
    return {
        "linear": {"rope_type": "linear", "factor": 4.0},
        "linear-1": {"rope_type": "linear", "factor": 1.0},
        "linear-theta": {"rope_type": "linear", "factor": 2.5, "rope_theta": 5e5},
        "dynamic": {"rope_type": "dynamic", "factor": 2.0},
        "dynamic-1": {"rope_type": "dynamic", "factor": 1.0},
        "dynamic-theta": {"rope_type": "dynamic", "factor": 4.5, "rope_theta": 5e5},
        "yarn": yarn,
        "yarn-betas": {**yarn, "factor": 16.0, "beta_fast": 8, "beta_slow": 0.5},
        "yarn-whole-pairs": {**yarn, "truncate": False, "rope_theta": 5e5},
        "yarn-attention": {**yarn, "attention_factor": 1.7},
        "yarn-mscale": {**yarn, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.3},
        "yarn-one-mscale": {**yarn, "mscale": 0.707},
        "yarn-1": {**yarn, "factor": 1.0},
        "yarn-no-ramp": {**yarn, "beta_fast": 4, "beta_slow": 4, "truncate": False},
        "yarn-no-original": {"rope_type": "yarn", "factor": 4.0},
        "llama3": llama3,
        "llama3-theta": {**llama3, "factor": 32.0, "rope_theta": 5e5, "low_freq_factor": 0.5, "high_freq_factor": 9},
        "longrope": {**longrope, **original},
        "longrope-factor": {**longrope, **original, "factor": 32.0},
        "longrope-attention": {**longrope, **original, "attention_factor": 1.19},
        "longrope-no-original": longrope,
    }


def theirs(width: int, description: dict[str, Any], length: int | None) -> tuple[Tensor, float]:
    config = LlamaConfig(
        head_dim=width, max_position_embeddings=WINDOW, rope_parameters={"rope_theta": THETA, **description}
    )
    return ROPE_INIT_FUNCTIONS[description["rope_type"]](config, torch.device("cpu"), seq_len=length)


def read(description: dict[str, Any]) -> RopeOptions:
    return read_rope({"rope_parameters": description}, WINDOW)


def make(options: RopeOptions, width: int = 16) -> Any:
    return make_position(ModelConfig(97, 64, 1, 4, 4, width, 64, WINDOW, position=options))


def frequencies(position: Any, length: int) -> Tensor:
    """As the rotation itself shows them: angle and position are no longer there, cosine and sine are."""
    cosine, sine = position.rotation(torch.tensor([1]), torch.tensor(length))
    return torch.atan2(sine.double(), cosine.double())[0, -len(position.frequencies) :]


@pytest.mark.parametrize("width", [8, 16, 64])
@pytest.mark.parametrize("name", settings(8))
@pytest.mark.parametrize("length", [1, ORIGINAL, ORIGINAL + 1, WINDOW, WINDOW + 1, 1000])
def test_frequencies_equal_transformers(name: str, width: int, length: int) -> None:
    description = settings(width)[name]
    expected, attention_factor = theirs(width, description, length)
    position = make(read(description), width)
    # Theirs are float32: a power of theta is off by up to 1e-6 of itself.
    torch.testing.assert_close(frequencies(position, length).float(), expected, rtol=1e-6, atol=0)
    assert position.attention_factor == pytest.approx(attention_factor, rel=1e-12)


@pytest.mark.parametrize("name", settings(8))
@pytest.mark.parametrize("length", [1, 1000])
def test_frequencies_of_a_share_equal_transformers(name: str, length: int) -> None:
    """Half of a head turns as a whole head of half the width does."""
    description = settings(16)[name] | {"partial_rotary_factor": 0.5}
    expected, attention_factor = theirs(32, description, length)
    options = read_rope({"rope_parameters": description}, WINDOW, pairing="adjacent", missing_share=1.0)
    assert (options.pairing, options.share) == ("adjacent", 0.5)
    position = make(options, 32)
    torch.testing.assert_close(frequencies(position, length).float(), expected, rtol=1e-6, atol=0)
    assert position.attention_factor == pytest.approx(attention_factor, rel=1e-12)


def plain(width: int = 16, theta: float = THETA) -> Tensor:
    return torch.tensor([theta ** (-2 * pair / width) for pair in range(width // 2)], dtype=torch.float64)


def turns(width: int) -> Tensor:
    """How often each pair goes round in the original window."""
    return ORIGINAL * plain(width) / (2 * math.pi)


def equal(left: Tensor, right: Tensor) -> None:
    # Frequencies are read off float32 cosines and sines.
    torch.testing.assert_close(left, right, rtol=2e-7, atol=0)


def test_linear_turns_a_position_as_its_share_was() -> None:
    stretched, unstretched = make(LinearOptions(factor=4.0)), make(RopeOptions())
    positions = torch.arange(5000)
    for ours, theirs in zip(stretched.rotation(4 * positions), unstretched.rotation(positions), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("factor", [1.0, 3.0, 8.0])
def test_ntk_keeps_the_first_pair_and_slows_the_last_by_the_factor(factor: float) -> None:
    position = make(NtkOptions(factor=factor))
    found = position.frequencies / plain()
    assert found[0] == 1
    assert found[-1] == pytest.approx(1 / factor, rel=1e-12)
    assert (found.diff() <= 0).all()
    equal(frequencies(position, 1), plain(theta=THETA * factor ** (16 / 14)))
    # What it is written as turns the very same way.
    again = make(NtkOptions(factor=factor).plain(16))
    assert torch.equal(again.frequencies, position.frequencies)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_dynamic_is_plain_within_the_window_and_ntk_past_it(factor: float) -> None:
    position, positions = make(DynamicOptions(factor=factor)), torch.arange(300)
    unstretched = make(RopeOptions()).rotation(positions)
    for lengths in (None, torch.tensor(1), torch.tensor(WINDOW)):
        assert all(map(torch.equal, position.rotation(positions, lengths), unstretched))
    for length in (WINDOW + 1, 2 * WINDOW, 9999):
        ntk = make(NtkOptions(factor=factor * length / WINDOW - (factor - 1)))
        equal(frequencies(position, length), frequencies(ntk, length))
    # With factor 1 a text twice as long turns the slowest pair half as fast.
    if factor == 1:
        equal(frequencies(position, 2 * WINDOW)[-1:], plain()[-1:] / 2)


def test_yarn_keeps_what_turned_often_and_slows_what_did_not_turn() -> None:
    factor, width = 8.0, 64
    options = YarnOptions(factor=factor, original_max_positions=ORIGINAL, beta_fast=4.0, beta_slow=1.0, truncate=False)
    found = make(options, width).frequencies / plain(width)
    often, seldom = turns(width) >= 4, turns(width) <= 1
    assert 0 < often.sum() < (often | ~seldom).sum() < width // 2
    assert (found[often] == 1).all()
    torch.testing.assert_close(found[seldom], torch.full_like(found[seldom], 1 / factor), rtol=1e-12, atol=0)
    between = found[~often & ~seldom]
    assert ((between > 1 / factor) & (between < 1)).all()
    # Linear from pair to pair.
    torch.testing.assert_close(between.diff(), between.diff()[:1].expand(len(between) - 1), rtol=1e-9, atol=0)
    # From one whole pair to another all steps are alike, those at the ends too; they weren't before.
    for truncate in (True, False):
        steps = (make(dataclasses.replace(options, truncate=truncate), width).frequencies / plain(width)).diff()
        steps = steps[steps.abs() > 1e-9]
        assert torch.allclose(steps, steps[:1]) == truncate


def test_llama3_keeps_short_waves_and_slows_long_ones() -> None:
    factor, width = 8.0, 64
    options = Llama3Options(factor=factor, original_max_positions=ORIGINAL, low_freq_factor=1.0, high_freq_factor=4.0)
    found = make(options, width).frequencies / plain(width)
    often, seldom = turns(width) >= 4, turns(width) <= 1
    assert (found[often] == 1).all()
    torch.testing.assert_close(found[seldom], torch.full_like(found[seldom], 1 / factor), rtol=1e-12, atol=0)
    kept = (turns(width) - 1) / 3
    torch.testing.assert_close(
        found[~often & ~seldom], (kept + (1 - kept) / factor)[~often & ~seldom], rtol=1e-12, atol=0
    )


def test_longrope_divides_by_one_set_or_the_other() -> None:
    short, long = factors(16, 1.5), factors(16, 9.0)
    position = make(
        LongRopeOptions(short_factor=tuple(short), long_factor=tuple(long), original_max_positions=ORIGINAL)
    )
    found = position.rotation(torch.ones(2, 1, dtype=torch.long), torch.tensor([[ORIGINAL], [ORIGINAL + 1]]))
    for row, each in enumerate((short, long)):
        angles = torch.atan2(found.sine.double(), found.cosine.double())[row, 0, 8:]
        equal(angles, plain() / torch.tensor(each).double())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (LinearOptions(factor=4.0), 1.0),
        (YarnOptions(factor=4.0, original_max_positions=64), 0.1 * math.log(4) + 1),
        (YarnOptions(factor=4.0, original_max_positions=64, attention_factor=1.7), 1.7),
        (LongRopeOptions(short_factor=(1.0,) * 8, long_factor=(2.0,) * 8, original_max_positions=64), math.sqrt(4 / 3)),
    ],
)
def test_scores_are_multiplied_by_the_square_of_the_attention_factor(options: RopeOptions, expected: float) -> None:
    """LongRoPE's window is 4 times the original 64: sqrt(1 + ln 4 / ln 64) = sqrt(4 / 3)."""
    position = make(options)
    x_1HTD = torch.randn(1, 2, 5, 16)
    turned_1HTD = position.rotate(x_1HTD, position.rotation(torch.arange(5), torch.tensor(500)))
    # A token's score with itself is that of the unrotated two.
    ratio = turned_1HTD.square().sum(-1) / x_1HTD.square().sum(-1)
    torch.testing.assert_close(ratio, torch.full_like(ratio, expected**2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", settings(16))
def test_angles_are_exact_at_ten_million(name: str) -> None:
    """To fifty digits, from the frequencies in float64."""
    far, position = 10_000_000, make(read(settings(16)[name]))
    source = getattr(position, "long", position)
    pairs = source.frequencies
    if "dynamic" in name:
        pairs = position.frequencies_at(torch.tensor(far + 1))
    cosine, sine = position.rotation(torch.tensor([far]), torch.tensor(far + 1))
    with mpmath.workdps(50):
        angles = [far * mpmath.mpf(float(pair)) for pair in pairs]
        expected = torch.tensor([[[float(turn(angle)) for angle in angles]] for turn in (mpmath.cos, mpmath.sin)])
    found = torch.stack((cosine, sine))[..., 8:]
    torch.testing.assert_close(found, position.attention_factor * expected, atol=2e-7, rtol=0)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_lengths_of_every_shape(name: str) -> None:
    """One for all, one a row, one a token: each as its own text alone."""
    position = make(read(settings(16)[name]))
    positions_BT = torch.randint(0, 40, (3, 5))
    lengths_BT = torch.randint(40, 700, (3, 5))
    lengths_BT[0] = torch.tensor([40, ORIGINAL, ORIGINAL + 1, WINDOW, WINDOW + 1])

    def alone(lengths: Tensor) -> Tensor:
        each = zip(positions_BT.flatten(), lengths.expand(3, 5).flatten(), strict=True)
        return torch.stack([torch.stack(position.rotation(place[None], length)) for place, length in each])

    for lengths in (torch.tensor(999), lengths_BT[:, :1], lengths_BT):
        found = torch.stack(position.rotation(positions_BT, lengths))
        assert torch.equal(found.view(2, 15, 16), alone(lengths)[:, :, 0].transpose(0, 1))


@pytest.mark.parametrize("options", [NtkOptions(factor=2.0), DynamicOptions(factor=2.0)])
def test_one_pair_can_not_be_both_fast_and_slow(options: RopeOptions) -> None:
    with pytest.raises(ValueError, match="2 features of a head are turned: NTK-aware positions need at least 4"):
        make(options, width=2)
