"""`block_memory` against a slow reference at the same chunk boundaries, and what only it promises."""

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from handscroll.kvcache import BlockMemory
from handscroll.kvcache.block_layer import READING_QUERIES, BlockLayer
from handscroll.kvcache.block_lru import LruBlockStore
from handscroll.kvcache.block_memory import BlockMemoryCache, Sizes
from handscroll.kvcache.block_selection import claims
from handscroll.kvcache.block_store import BlockStore
from handscroll.kvcache.layered import PerForward
from handscroll.model import Capture, Layout, ModelConfig, RopeOptions, Transformer
from handscroll.model.position import AlibiOptions, LongRopeOptions, Position, Rotation, YarnOptions, make_position
from handscroll.model.slots import PositionOptions

HEADS, KV_HEADS, WIDTH = 4, 2, 8
CONFIG = ModelConfig(97, 32, 1, HEADS, KV_HEADS, WIDTH, 32, 64)
# Turns the first of four pairs and hardly the others, so that what they hold scores alike at any distance.
SLOW = make_position(dataclasses.replace(CONFIG, position=RopeOptions(theta=1e12)))
TURNING = [0, WIDTH // 2]
POLICY = BlockMemory(
    blocks=3, block_size=4, sinks=2, window=16, tile=8, representatives=2, reselect=3, reselect_reading=24
)


class Reference:
    """One layer, one row, one token at a time, straight from the description: no buffers, everything from history."""

    def __init__(self, policy: BlockMemory, position: Position):
        self.policy, self.sizes, self.position = policy, Sizes.of(policy, CONFIG.max_positions), position
        self.key_KSD = torch.empty(KV_HEADS, 0, WIDTH)
        self.value_KSD = torch.empty(KV_HEADS, 0, WIDTH)
        self.received_KS = torch.empty(KV_HEADS, 0)
        self.blocks: list[range] = []
        self.sentence_ends: set[int] = set()
        self.selected_at, self.pending = 0, []
        self.chosen: list[list[int]] = [[] for _ in range(KV_HEADS)]
        self.scores: list[list[float]] | None = None
        self.representatives: list[list[Tensor]] = [[] for _ in range(KV_HEADS)]

    def forward(self, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor) -> Tensor:
        length, out = query_HTD.shape[1], []
        if length == 1:
            self._archive()
            self.pending.append(query_HTD)
            if len(self.pending) == self.policy.reselect:
                self._select(torch.cat(self.pending, dim=1))
                self.pending = []
            return self._attend(query_HTD, key_KTD, value_KTD)
        self.pending, offset = [], 0
        while offset < length:
            start = self.key_KSD.shape[1]
            stop = min(length, offset + self.sizes.tile - start % self.sizes.tile)
            is_due = start - self.selected_at >= self.policy.reselect_reading
            self._archive()
            tile_HTD = query_HTD[:, offset:stop]
            if stop == length:
                self.scores = None
                self._select(query_HTD[:, max(0, length - self.sizes.tile) :])
            elif offset == 0 or is_due:
                self.scores = None
                self._select(tile_HTD[:, -READING_QUERIES:])
            out.append(self._attend(tile_HTD, key_KTD[:, offset:stop], value_KTD[:, offset:stop]))
            offset = stop
        return torch.cat(out, dim=1)

    def _archive(self) -> None:
        before = len(self.blocks)
        while self._local_start() < self.key_KSD.shape[1] // self.sizes.tile * self.sizes.tile - self.sizes.window:
            span = self._next_block()
            self.blocks.append(span)
            for head in range(KV_HEADS):
                keys_LD = self.key_KSD[head, span.start : span.stop]
                number = self.policy.representatives
                match self.policy.representative:
                    case "key_norm":
                        keys_LD = keys_LD[keys_LD.norm(dim=-1).argsort(descending=True)[:number]]
                    case "key_contrast":
                        order = (keys_LD - keys_LD.mean(0)).norm(dim=-1).argsort(descending=True)
                        keys_LD = keys_LD[order[:number]]
                    case "attended":
                        keys_LD = keys_LD[
                            self.received_KS[head, span.start : span.stop].argsort(descending=True)[:number]
                        ]
                    case "mean":
                        keys_LD = keys_LD.mean(0, keepdim=True)
                    case "bounds":
                        keys_LD = torch.stack((keys_LD.amin(0), keys_LD.amax(0)))
                self.representatives[head].append(keys_LD)
        if self.scores is not None:
            self.scores = [scores + [0.0] * (len(self.blocks) - before) for scores in self.scores]
        if self._fit(range(len(self.blocks))) == list(range(len(self.blocks))):
            self.chosen = [list(range(len(self.blocks))) for _ in range(KV_HEADS)]

    def _local_start(self) -> int:
        return self.blocks[-1].stop if self.blocks else self.sizes.sinks

    def _next_block(self) -> range:
        start, size = self._local_start(), self.sizes.block
        ends = [start + size]
        if self.policy.cut == "sentences":
            ends += [n + 1 for n in sorted(self.sentence_ends) if start + size / 2 <= n + 1 <= start + size]
        return range(start, ends[-1])

    def _fit(self, blocks: Sequence[int]) -> list[int]:
        """The first of these blocks, as many as fit into the tokens of `policy.blocks` full ones."""
        tokens = [sum(len(self.blocks[n]) for n in blocks[: number + 1]) for number in range(len(blocks))]
        return [n for n, total in zip(blocks, tokens, strict=True) if total <= self.sizes.blocks * self.sizes.block]

    def _select(self, query_HTD: Tensor) -> None:
        self.selected_at = self.key_KSD.shape[1]
        if len(self._fit(range(len(self.blocks)))) == len(self.blocks):
            return
        length, recency = query_HTD.shape[1], self.policy.recency
        scores = []
        for head in range(KV_HEADS):
            sums = [0.0] * len(self.blocks)
            for query_TD in query_HTD[head * 2 : head * 2 + 2]:
                for age, query_D in enumerate(query_TD.flip(0)):
                    for block, mass in enumerate(self._masses(head, query_D)):
                        sums[block] += mass * recency**age
            scores.append(sums)
        if self.scores is not None:
            fade = recency**length
            scores = [
                [new + fade * old for new, old in zip(*pair, strict=True)]
                for pair in zip(scores, self.scores, strict=True)
            ]
        self.scores = scores
        self.chosen = [self._best(scores if self.policy.selection == "shared" else [own]) for own in scores]

    def _best(self, scores: list[list[float]]) -> list[int]:
        """The blocks that one of these heads asks for most."""
        order = sorted(range(len(self.blocks)), key=lambda n: -max(own[n] for own in scores))
        return sorted(self._fit(order))

    def _masses(self, head: int, query_D: Tensor) -> list[float]:
        """The attention that a query would give each block among all of their representatives."""
        blocks = self.representatives[head]
        if self.policy.representative == "bounds":
            # Scores are linear in the key: those of unit keys are what a query is, averaged over the distances.
            turned = self._mean_scores(torch.eye(WIDTH), query_D).tolist()
            scores = [
                sum(max(q * low, q * high) for q, low, high in zip(turned, *bounds.tolist(), strict=True))
                for bounds in blocks
            ]
            return (torch.tensor(scores) / math.sqrt(WIDTH)).softmax(0).tolist()
        mass_M = (self._mean_scores(torch.cat(blocks), query_D) / math.sqrt(WIDTH)).softmax(0)
        return [float(mass.sum()) for mass in mass_M.split([len(keys) for keys in blocks])]

    def _mean_scores(self, keys_MD: Tensor, query_D: Tensor) -> Tensor:
        """What each key would score, on average over the slots of retrieved blocks, asked from the last slot."""
        sizes = self.sizes
        slots = range(sizes.sinks, sizes.sinks + sizes.blocks * sizes.block)
        scores = []
        for slot in slots:
            at_slot, at_end = (self._rotation(torch.tensor([place])) for place in (slot, sizes.attended - 1))
            key_M1D = self.position.rotate(keys_MD[None, :, None], at_slot)[0]
            scores.append(key_M1D[:, 0] @ self.position.rotate(query_D[None, None, None], at_end)[0, 0, 0])
        return torch.stack(scores).mean(0)

    def _rotation(self, slots: Tensor) -> Rotation:
        return self.position.rotation(slots, torch.tensor(self.sizes.attended))

    def _attend(self, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor) -> Tensor:
        start, sizes = self.key_KSD.shape[1], self.sizes
        local_start = self._local_start()
        self.key_KSD = torch.cat((self.key_KSD, key_KTD), dim=1)
        self.value_KSD = torch.cat((self.value_KSD, value_KTD), dim=1)
        self.received_KS = torch.nn.functional.pad(self.received_KS, (0, key_KTD.shape[1]))
        out_HTD = torch.empty_like(query_HTD)
        for offset in range(query_HTD.shape[1]):
            for head in range(HEADS):
                kv_head, now = head // 2, start + offset
                indices = list(range(min(sizes.sinks, now + 1)))
                for block in self.chosen[kv_head]:
                    indices += self.blocks[block]
                indices += range(max(local_start, len(indices) if not self.chosen[kv_head] else 0), now + 1)
                assert len(indices) <= sizes.attended
                places = self._rotation(torch.arange(len(indices)))
                keys_SD = self.position.rotate(self.key_KSD[kv_head, indices][None, None], places)[0, 0]
                place = type(places)(places.cosine[-1:], places.sine[-1:])
                query_D = self.position.rotate(query_HTD[head, offset][None, None, None], place)[0, 0, 0]
                scores_S = keys_SD @ query_D / math.sqrt(WIDTH)
                bias_H1S = self.position.bias(torch.tensor([len(indices) - 1]), torch.arange(len(indices)))
                weights_S = (scores_S if bias_H1S is None else scores_S + bias_H1S[head, 0]).softmax(0)
                self.received_KS[kv_head, indices] += weights_S
                out_HTD[head, offset] = weights_S @ self.value_KSD[kv_head, indices]
        return out_HTD


# Plain, and with scores multiplied; LongRoPE's window of 20 is shorter than what is attended to.
POSITIONS = [
    RopeOptions(),
    YarnOptions(factor=8.0, original_max_positions=16),
    LongRopeOptions(short_factor=(1.0,) * 4, long_factor=(1.0, 2.0, 3.0, 4.0), original_max_positions=20),
    AlibiOptions(),
]


@pytest.mark.parametrize("representative", ["key_norm", "key_contrast", "attended", "mean", "bounds", "all"])
@pytest.mark.parametrize("options", POSITIONS, ids=["rope", "yarn", "longrope", "alibi"])
def test_equals_the_slow_reference(options: PositionOptions, representative: str) -> None:
    equals_the_slow_reference(dataclasses.replace(POLICY, representative=representative), options, BlockStore())


@pytest.mark.parametrize("representative", ["key_norm", "bounds"])
def test_each_head_by_itself_equals_the_slow_reference(representative: str) -> None:
    policy = dataclasses.replace(POLICY, representative=representative, selection="per_head")
    chosen = equals_the_slow_reference(policy, RopeOptions(), BlockStore())
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize("selection", ["shared", "per_head"])
def test_blocks_that_stay_on_the_device_equal_the_slow_reference(
    selection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handscroll.kvcache.block_lru.is_apart", lambda device: True)
    store = LruBlockStore(POLICY.blocks + 1)
    equals_the_slow_reference(dataclasses.replace(POLICY, selection=selection), RopeOptions(), store)
    assert min(store.counts) > 0


@pytest.mark.parametrize("representative", ["key_norm", "attended", "mean", "bounds"])
@pytest.mark.parametrize("sentence_ends", [0.0, 0.15, 1.0])
def test_blocks_of_sentences_equal_the_slow_reference(representative: str, sentence_ends: float) -> None:
    policy = dataclasses.replace(POLICY, representative=representative, cut="sentences", block_size=6, blocks=2)
    equals_the_slow_reference(policy, RopeOptions(), BlockStore(), sentence_ends)


def equals_the_slow_reference(
    policy: BlockMemory, options: PositionOptions, store: BlockStore, sentence_ends: float = 0.3
) -> list[list[int]]:
    """Returns what each kv head reads in the end. Of all tokens this share ends a sentence."""
    shared, position = PerForward(), make_position(dataclasses.replace(CONFIG, position=options))
    layer = BlockLayer(policy, Sizes.of(policy, 64), position, store, 1, shared)
    reference = Reference(policy, position)
    generator = torch.Generator().manual_seed(0)
    length = 0
    for chunk in [50, 7, 60, 1, 1, 1, 1, 1, 1, 13, *[1] * 30, 24, 25, 2]:
        query_1HTD = torch.randn(1, HEADS, chunk, WIDTH, generator=generator)
        key_1KTD, value_1KTD = torch.randn(2, 1, KV_HEADS, chunk, WIDTH, generator=generator)
        ends_1T = torch.rand(1, chunk, generator=generator) < sentence_ends
        reference.sentence_ends.update(length + place for place in ends_1T[0].nonzero()[:, 0].tolist())
        attended = layer.attend(query_1HTD, key_1KTD, value_1KTD, Layout.rows([chunk], [length], ends_BT=ends_1T))
        expected_HTD = reference.forward(query_1HTD[0], key_1KTD[0], value_1KTD[0])
        torch.testing.assert_close(attended.out_BHTD[0], expected_HTD, atol=1e-5, rtol=0)
        length += chunk
    starts = [[reference.blocks[block].start for block in blocks] for blocks in reference.chosen]
    assert layer.trace(0) == starts
    return starts


def test_where_more_of_the_text_follows_a_forward_its_last_tile_does_not_choose() -> None:
    """What follows chooses for itself, and reads the same as when the first forward did choose at its end."""
    generator = torch.Generator().manual_seed(0)
    query_1HTD = torch.randn(1, HEADS, 300, WIDTH, generator=generator)
    key_1KTD, value_1KTD = torch.randn(2, 1, KV_HEADS, 300, WIDTH, generator=generator)
    outs, chosen_at = [], []
    for total in (192, 300):
        layer = BlockLayer(POLICY, Sizes.of(POLICY, 64), SLOW, BlockStore(), 1, PerForward())
        for first, last in ((0, 192), (192, 300)):
            layout = Layout.rows([last - first], [first], totals=[max(last, total)])
            parts = (whole[:, :, first:last] for whole in (query_1HTD, key_1KTD, value_1KTD))
            attended = layer.attend(*parts, layout)
            chosen_at.append(layer.rows[0].selected_at)
        outs.append(attended.out_BHTD)
    # Tiles of 8 tokens; while reading, blocks are chosen at least once in 24.
    assert chosen_at[0] == 184
    assert chosen_at[2] == 168
    assert chosen_at[1] == chosen_at[3] == 296
    torch.testing.assert_close(outs[0], outs[1])


def test_never_attends_to_more_than_it_says(model: Transformer) -> None:
    cache = BlockMemory().start(model.config, model.position, 1)
    model.hidden(torch.zeros(1, 1000, dtype=torch.int64), cache=cache)
    layout = Layout.rows([40], [1000], capture=Capture(weights=True))
    hidden = model.hidden(torch.zeros(1, 40, dtype=torch.int64), layout, cache)
    for weights_BHTS in hidden.weights:
        assert weights_BHTS.shape[-1] <= model.config.max_positions


def test_a_planted_key_is_found_at_any_depth() -> None:
    """A query equal to one archived key, among 4,000 random ones, retrieves that key's block."""
    generator = torch.Generator().manual_seed(0)
    keys_KSD = torch.randn(KV_HEADS, 4000, WIDTH, generator=generator)
    keys_KSD[..., TURNING] = 0
    for depth in (100, 2000, 3800):
        layer = BlockLayer(POLICY, Sizes.of(POLICY, 64), SLOW, BlockStore(), 1, PerForward())
        planted_KSD = keys_KSD.clone()
        planted_KSD[:, depth] *= 4
        zeros = torch.zeros(1, HEADS, 4000, WIDTH)
        layer.attend(zeros, planted_KSD[None], keys_KSD[None], Layout.rows([4000]))
        query = planted_KSD[:, depth].repeat_interleave(2, 0)[None, :, None]
        layer.attend(
            query.expand(-1, -1, 2, -1), keys_KSD[None, :, :2], keys_KSD[None, :, :2], Layout.rows([2], [4000])
        )
        gold = 2 + (depth - 2) // 4 * 4
        assert all(gold in starts for starts in layer.trace(0))


def test_sizes_follow_the_trained_window_and_must_fit_in_it() -> None:
    assert Sizes.of(BlockMemory(), 512) == Sizes(sinks=32, blocks=4, block=32, window=64, tile=64)
    assert Sizes.of(BlockMemory(), 512).attended == 288
    assert Sizes.of(BlockMemory(), 32768).block == 128
    with pytest.raises(ValueError, match=r"sinks 32 \+ blocks 20 x 32 .* trained on 512"):
        Sizes.of(BlockMemory(blocks=20), 512)
    with pytest.raises(ValueError, match="block_size=32 needs a window of at least 31 tokens, not 30"):
        Sizes.of(BlockMemory(window=30), 512)


def test_archives_are_shared_by_forks_not_copied(model: Transformer) -> None:
    cache = BlockMemory().start(model.config, model.position, 1)
    model.hidden(torch.zeros(1, 2000, dtype=torch.int64), cache=cache)
    assert cache.select([0] * 50).bytes().host == cache.bytes().host


def test_truncation_reaches_back_into_the_archive(model: Transformer) -> None:
    """After going back, the local window holds what it held then: within it, the next question finds the same."""
    tokens_1T = torch.randint(97, (1, 600), generator=torch.Generator().manual_seed(4))
    policy = BlockMemory(representative="all")
    back, fresh = (policy.start(model.config, model.position, 1) for _ in range(2))
    for cache in (back, fresh):
        model.hidden(tokens_1T[:, :301], cache=cache)
    model.hidden(tokens_1T[:, 301:], cache=back)
    back.truncate([301])
    tail = torch.arange(8)[None]
    torch.testing.assert_close(model(tail, cache=back), model(tail, cache=fresh), atol=2e-5, rtol=0)


def test_the_token_that_asks_looks_up() -> None:
    """With the default options a decoded token chooses blocks by its own query, before it attends."""
    layer = BlockLayer(BlockMemory(), Sizes.of(BlockMemory(), 64), SLOW, BlockStore(), 1, PerForward())
    generator = torch.Generator().manual_seed(0)
    key_1KSD = torch.randn(1, KV_HEADS, 400, WIDTH, generator=generator)
    key_1KSD[..., TURNING] = 0
    # Of equal norm, so that nothing fits a query better than the key that it is made of.
    key_1KSD = torch.nn.functional.normalize(key_1KSD, dim=-1)
    layer.attend(torch.zeros(1, HEADS, 400, WIDTH), key_1KSD, key_1KSD, Layout.rows([400]))
    for step, depth in enumerate((200, 101, 302, 53)):
        asking = 50 * key_1KSD[:, :, depth].repeat_interleave(2, 1)[:, :, None]
        layer.attend(asking, key_1KSD[:, :, :1], key_1KSD[:, :, :1], Layout.rows([1], [400 + step]))
        gold = layer.sizes.sinks + (depth - layer.sizes.sinks) // layer.sizes.block * layer.sizes.block
        assert all(gold in starts for starts in layer.trace(0))


@pytest.mark.parametrize("recency", [1.0, 0.5])
def test_claims_in_pieces_equal_claims_at_once_and_see_only_their_own_rows_blocks(recency: float) -> None:
    generator = torch.Generator().manual_seed(0)
    query_BHTD = torch.randn(3, HEADS, 40, WIDTH, generator=generator)
    representative_KNRD = torch.randn(KV_HEADS, 11, 2, WIDTH, generator=generator)
    held_BN = torch.rand(3, 11, generator=generator) < 0.5
    at_once_KBN = claims(query_BHTD, representative_KNRD, held_BN, recency)
    pieces_KBN = claims(query_BHTD, representative_KNRD, held_BN, recency, products=200)
    torch.testing.assert_close(pieces_KBN, at_once_KBN)
    # Queries that count less than a twentieth of the latest are left out: of recency 0.5 all but five.
    mass = 2 * sum(weight for age in range(40) if (weight := recency**age) >= 0.05)
    torch.testing.assert_close(at_once_KBN.sum(-1), torch.full((KV_HEADS, 3), mass), rtol=1e-5, atol=0)
    for row, held_N in enumerate(held_BN):
        alone_KN = claims(query_BHTD[row : row + 1], representative_KNRD[:, held_N], None, recency)[:, 0]
        torch.testing.assert_close(at_once_KBN[:, row, held_N], alone_KN)
        assert not at_once_KBN[:, row, ~held_N].any()


def counts(cache: BlockMemoryCache) -> list[int]:
    return [layer.store.count for layer in cache.layers if isinstance(layer, BlockLayer)]


def test_a_fork_takes_its_blocks_with_it(model: Transformer) -> None:
    """Blocks of the fork are in the shared archive for as long as any cache needs them, and no longer."""
    tokens_1T = torch.randint(97, (1, 500), generator=torch.Generator().manual_seed(4))
    cache = BlockMemory().start(model.config, model.position, 1)
    model.hidden(tokens_1T, cache=cache)
    before = counts(cache)
    fork = cache.select([0, 0])
    model.hidden(tokens_1T[:, :300].expand(2, -1), cache=fork)
    grown = counts(cache)
    assert all(after > count for after, count in zip(grown, before, strict=True))
    forked_again = fork.select([1])
    del fork
    assert before < counts(cache) <= grown
    del forked_again
    assert counts(cache) == before


def test_places_of_forgotten_blocks_are_used_again(model: Transformer) -> None:
    """A fork that came first leaves a gap: what is archived next fills it, and is read back whole."""
    tokens_1T = torch.randint(97, (1, 900), generator=torch.Generator().manual_seed(4))
    cache, alone = (BlockMemory().start(model.config, model.position, 1) for _ in range(2))
    for each in (cache, alone):
        model.hidden(tokens_1T[:, :300], cache=each)
    fork = cache.select([0])
    model.hidden(tokens_1T[:, :200], cache=fork)
    for each in (cache, alone):
        model.hidden(tokens_1T[:, 300:500], cache=each)
    del fork
    for each in (cache, alone):
        model.hidden(tokens_1T[:, 500:800], cache=each)
    assert counts(cache) == counts(alone)
    torch.testing.assert_close(
        model(tokens_1T[:, 800:], cache=cache), model(tokens_1T[:, 800:], cache=alone), atol=2e-5, rtol=0
    )


def test_truncation_gives_blocks_back(model: Transformer) -> None:
    cache = BlockMemory().start(model.config, model.position, 1)
    for first in range(0, 600, 50):
        model.hidden(torch.zeros(1, 50, dtype=torch.int64), cache=cache)
        if first == 300:
            held = counts(cache)
    cache.truncate([350])
    assert counts(cache) == held
