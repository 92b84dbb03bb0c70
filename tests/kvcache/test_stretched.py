"""Stretched positions and caches: what is remembered turns as it would if the text were read from the beginning.

Past the first layer a key is made of what its token attended to when it was read. Where frequencies depend on the
length, a cache and a text read anew agree on whole networks only for texts whose length was known (`totals`); they
always agree on what a layer attends to.
"""

from __future__ import annotations

import dataclasses
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from handscroll.kernels.attention import additive, attention_with_weights
from handscroll.kvcache import BlockMemory, Full, SlidingWindow
from handscroll.kvcache.block_memory import Sizes
from handscroll.kvcache.full_layer import FullLayer
from handscroll.model import Cache, DirectMemory, Layout, ModelConfig, RopeOptions, Transformer
from handscroll.model.position import (
    POSITIONS,
    AlibiOptions,
    DynamicAlibiOptions,
    DynamicOptions,
    Learned2dOptions,
    LearnedOptions,
    LinearOptions,
    Llama3Options,
    LongRopeOptions,
    NoPositionOptions,
    NtkOptions,
    RelativeOptions,
    Rope2dOptions,
    Rotation,
    SinusoidalOptions,
    YarnOptions,
    make_position,
)
from handscroll.model.slots import PositionOptions

# The window, past which dynamic positions change with every token; LongRoPE's change once, after 16 tokens.
WINDOW, ORIGINAL, LENGTH = 32, 16, 60
TOLERANCE = 2e-5
LONG = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 8.0, 9.0)
OPTIONS = {
    "rope": RopeOptions(),
    "linear": LinearOptions(factor=2.0),
    "ntk": NtkOptions(factor=2.0),
    "dynamic": DynamicOptions(factor=2.0),
    "yarn": YarnOptions(factor=2.0, original_max_positions=ORIGINAL),
    "llama3": Llama3Options(factor=2.0, original_max_positions=ORIGINAL, low_freq_factor=1.0, high_freq_factor=4.0),
    "longrope": LongRopeOptions(short_factor=(1.0,) * 8, long_factor=LONG, original_max_positions=ORIGINAL),
    "rope_2d": Rope2dOptions(),
    "alibi": AlibiOptions(),
    "dynamic_alibi": DynamicAlibiOptions(),
}
# No cache sees what is added to the embedding; test_segment_recurrence.py has relative positions.
ELSEWHERE = (LearnedOptions, Learned2dOptions, SinusoidalOptions, NoPositionOptions, RelativeOptions)
# A bias is taken at each use anyway: keys have nothing to keep.
ROTARY_DEPENDENT = ["dynamic", "longrope"]
DEPENDENT = [*ROTARY_DEPENDENT, "dynamic_alibi"]
POLICIES = {"full": Full(), "sliding_window": SlidingWindow(window=LENGTH)}


@pytest.fixture(params=OPTIONS)
def options(request: pytest.FixtureRequest) -> PositionOptions:
    return OPTIONS[request.param]


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> Full | SlidingWindow:
    return POLICIES[request.param]


@pytest.fixture
def tokens_BT() -> Tensor:
    return torch.randint(97, (3, LENGTH), generator=torch.Generator().manual_seed(3))


def make(options: PositionOptions, layers: int) -> Transformer:
    """A model whose attention is far from uniform, so that a wrongly turned key shows in the logits."""
    model = Transformer(ModelConfig(97, 64, layers, 4, 2, 16, 96, WINDOW, position=options, qkv_bias=True), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False).eval()


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, atol=TOLERANCE, rtol=0)


def feed(
    model: Transformer, cache: Cache, tokens_BT: Tensor, chunks: list[int], totals: list[int] | None = None
) -> Tensor:
    logits = []
    for piece_BT in tokens_BT.split(chunks, dim=1):
        layout = Layout.rows([piece_BT.shape[1]] * len(piece_BT), cache.lengths, totals=totals)
        logits.append(model(piece_BT, layout, cache))
    return torch.cat(logits, dim=1)


def test_every_position_has_options_here() -> None:
    assert [type(each) for each in OPTIONS.values()] == [kind for kind in POSITIONS if kind not in ELSEWHERE]
    dependent = [make_position(make(each, 1).config).depends_on_length for each in OPTIONS.values()]
    assert dependent == [name in DEPENDENT for name in OPTIONS]


@pytest.mark.parametrize("chunks", [[1] * LENGTH, [10, 6, 1, 14, 2, 27], [LENGTH]])
@pytest.mark.parametrize("length", [ORIGINAL, ORIGINAL + 1, WINDOW, WINDOW + 1, LENGTH])
def test_a_text_of_known_length_equals_no_cache(
    options: PositionOptions, policy: Full | SlidingWindow, tokens_BT: Tensor, chunks: list[int], length: int
) -> None:
    """Through all layers, whatever the chunks."""
    model, ends = make(options, layers=2), [min(end, length) for end in accumulate(chunks)]
    chunks = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True) if end > start]
    cache = policy.start(model.config, model.position, 3)
    close(feed(model, cache, tokens_BT[:, :length], chunks, [length] * 3), model(tokens_BT[:, :length]))


@pytest.mark.parametrize("chunks", [[1] * LENGTH, [10, 6, 1, 14, 2, 27]])
def test_at_every_length_a_layer_equals_reading_from_the_beginning(
    options: PositionOptions, policy: Full | SlidingWindow, tokens_BT: Tensor, chunks: list[int]
) -> None:
    model = make(options, layers=1)
    cache = policy.start(model.config, model.position, 3)
    for end, size in zip(accumulate(chunks), chunks, strict=True):
        close(model(tokens_BT[:, end - size : end], cache=cache), model(tokens_BT[:, :end])[:, -size:])


def test_ragged_rows_each_turn_by_their_own_length(
    options: PositionOptions, policy: Full | SlidingWindow, tokens_BT: Tensor
) -> None:
    """One row in the short window, one in the long one, and one that crosses between them."""
    model, lengths = make(options, layers=1), [40, 28, 3]
    cache = policy.start(model.config, model.position, 3)
    logits_BTV = model(tokens_BT[:, :40], Layout.rows(lengths), cache)
    for row, length in enumerate(lengths):
        close(logits_BTV[row, :length], model(tokens_BT[row : row + 1, :length])[0])
    for step in range(20):
        next_B1 = torch.stack([tokens_BT[row, length + step] for row, length in enumerate(lengths)])[:, None]
        wanted_B1 = torch.zeros(3, 1, dtype=torch.long) if step % 2 else None
        logits_BV = model.logits(model.hidden(next_B1, cache=cache, wanted_BQ=wanted_B1).last_BTE)[:, 0]
        for row, length in enumerate(lengths):
            close(logits_BV[row], model(tokens_BT[row : row + 1, : length + step + 1])[0, -1])


def test_going_back_to_a_shorter_text(
    options: PositionOptions, policy: Full | SlidingWindow, tokens_BT: Tensor
) -> None:
    """Truncated, reordered and repeated: what is left turns as a text of its length again."""
    model = make(options, layers=1)
    cache = policy.start(model.config, model.position, 3)
    model(tokens_BT[:, :50], cache=cache)
    cache.truncate([45, 20, 8])
    chosen = cache.select([2, 0, 2])
    logits_BTV = model(tokens_BT[:, 50:52], cache=chosen)
    for place, (row, length) in enumerate([(2, 8), (0, 45), (2, 8)]):
        text_T = torch.cat((tokens_BT[row, :length], tokens_BT[place, 50:52]))
        close(logits_BTV[place], model(text_T[None])[0, -2:])


@pytest.mark.parametrize("name", OPTIONS)
def test_keys_are_kept_unrotated_where_the_length_matters_and_only_there(name: str) -> None:
    position = make_position(make(OPTIONS[name], 1).config)
    (layer,) = Full().start(make(OPTIONS[name], 1).config, position, 1).layers
    assert isinstance(layer, FullLayer)
    query_BHTD, key_BKTD = torch.randn(1, 4, 40, 16), torch.randn(1, 2, 40, 16)
    layer.attend(query_BHTD, key_BKTD, key_BKTD, Layout.rows([40]))
    rotated_BKTD = position.rotate(key_BKTD, position.rotation(torch.arange(40)))
    expected_BKTD = key_BKTD if name in DEPENDENT else rotated_BKTD
    assert layer.store.key_BKSD is not None
    assert torch.equal(layer.store.key_BKSD[:, :, :40], expected_BKTD)


class WindowReference(DirectMemory):
    """The slow reference: a dense mask of the last `span` tokens, turned as in a text of that many."""

    span = 24

    def attend(self, query_BHTD, key_BKTD, value_BKTD, layout, asking=None):  # type: ignore[no-untyped-def]
        index_T = torch.arange(query_BHTD.shape[2])
        rotation = self.position.rotation(index_T, torch.tensor(min(len(index_T), self.span)))
        query_BHTD, key_BKTD = (self.position.rotate(x_BHTD, rotation) for x_BHTD in (query_BHTD, key_BKTD))
        distance_TT = index_T[:, None] - index_T
        mask_TT = (distance_TT >= 0) & (distance_TT < self.span)
        if self.position.adds_bias:
            lengths = torch.tensor(min(len(index_T), self.span))
            mask_TT = additive(self.position.bias(index_T, index_T, lengths), mask_TT, False)
        return attention_with_weights(query_BHTD, key_BKTD, value_BKTD, mask_TT, False)


@pytest.mark.parametrize("window", [12, 24, 40])
def test_a_sliding_window_turns_by_what_it_attends_to(
    options: PositionOptions, window: int, tokens_BT: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the text is, a query sees no larger distance: nothing needs to be stretched further."""
    model = make(options, layers=1)
    cache = SlidingWindow(window=window).start(model.config, model.position, 3)
    logits = [model(tokens_BT[:, step : step + 1], cache=cache)[:, 0] for step in range(LENGTH)]
    monkeypatch.setattr("handscroll.model.attention.DirectMemory", WindowReference)
    monkeypatch.setattr(WindowReference, "span", window)
    for step in range(LENGTH):
        close(logits[step], model(tokens_BT[:, : step + 1])[:, -1])


@pytest.mark.parametrize("chunks", [[30], [1] * 30, [9, 1, 20]])
def test_block_memory_turns_by_all_that_it_may_attend_to(
    options: PositionOptions, tokens_BT: Tensor, chunks: list[int]
) -> None:
    """In one rotation from the first token on: that of a text as long as its slots, which the trained window covers."""
    policy = BlockMemory(blocks=2, block_size=2, sinks=2, window=18, tile=8)
    model = make(options, layers=2)
    attended = Sizes.of(policy, WINDOW).attended
    assert attended == WINDOW
    cache = policy.start(model.config, model.position, 3)
    logits_BTV = feed(model, cache, tokens_BT[:, :30], chunks)
    close(logits_BTV, model(tokens_BT[:, :30], Layout.rows([30] * 3, totals=[attended] * 3)))


def test_a_total_that_was_too_small_is_corrected(tokens_BT: Tensor) -> None:
    model = make(OPTIONS["dynamic"], layers=2)
    close(model(tokens_BT, Layout.rows([LENGTH] * 3, totals=[50, 60, 61]))[:2], model(tokens_BT)[:2])
    assert dataclasses.replace(Layout.rows([3], [9]), totals=(5,)).text_lengths().tolist() == [[12]]


class Stale:
    """Positions as they are where each key keeps the rotation of the length at which it was read."""

    depends_on_length = False
    adds_bias = False

    def __init__(self, model: Transformer, length: int):
        self.position, self.length = model.position, length

    def rotation(self, positions: Tensor, lengths: Tensor | None = None) -> Rotation:
        return self.position.rotation(positions, torch.tensor(self.length))

    def rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        return self.position.rotate(x, rotation)


@pytest.mark.parametrize("name", ROTARY_DEPENDENT)
def test_deep_networks_come_nearer_to_reading_anew_than_with_keys_that_keep_their_rotation(name: str) -> None:
    """Not equal: what deeper layers remember was read under the frequencies of its time."""
    model = make(OPTIONS[name], layers=4)
    tokens_BT = torch.randint(97, (8, LENGTH), generator=torch.Generator().manual_seed(0))
    ours, stale = (Full().start(model.config, model.position, 8) for _ in range(2))
    far = {"ours": 0.0, "stale": 0.0}
    for step in range(LENGTH):
        for layer in stale.layers:
            layer.position = Stale(model, step + 1)  # type: ignore[attr-defined]
        anew_BV = model(tokens_BT[:, : step + 1])[:, -1].log_softmax(-1)
        for kind, cache in (("ours", ours), ("stale", stale)):
            logits_BV = model(tokens_BT[:, step : step + 1], cache=cache)[:, -1].log_softmax(-1)
            far[kind] += float((anew_BV.exp() * (anew_BV - logits_BV)).sum())
    assert 0 < far["ours"] < 0.5 * far["stale"]


@pytest.mark.parametrize("name", [name for name, each in OPTIONS.items() if isinstance(each, RopeOptions)])
def test_adjacent_pairs_of_half_a_head(name: str, policy: Full | SlidingWindow, tokens_BT: Tensor) -> None:
    """What isn't turned is kept and read as it is, whatever the length does to the rest."""
    halved = {"pairing": "adjacent", "share": 0.5}
    if name == "longrope":
        halved |= {"short_factor": (1.0,) * 4, "long_factor": LONG[::2]}
    model = make(dataclasses.replace(OPTIONS[name], **halved), layers=2)
    cache = policy.start(model.config, model.position, len(tokens_BT))
    close(feed(model, cache, tokens_BT, [10, 6, 1, 14, 2, 27], [LENGTH] * 3), model(tokens_BT))
