"""The index of `block_memory` against looking at every representative: what it finds, and what it may not forget."""

import pytest
import torch
from torch import Tensor

from handscroll.kvcache import BlockMemory
from handscroll.kvcache.block_index import BlockIndex
from handscroll.kvcache.block_layer import BlockLayer
from handscroll.kvcache.block_lists import PRIOR, SPREAD, Lists, k_means, nearest
from handscroll.kvcache.block_memory import BlockMemoryCache
from handscroll.kvcache.block_selection import claims, indexed_claims
from handscroll.kvcache.block_store import BlockStore
from handscroll.model import Layout, Transformer

HEADS, KV_HEADS, REPRESENTATIVES, WIDTH = 4, 2, 3, 8
ALL = 1 << 20


def small_index() -> BlockIndex:
    return BlockIndex(segment=8, fewest=1)


def updated(index: BlockIndex, representative_KNRD: Tensor) -> BlockIndex:
    index.written(range(representative_KNRD.shape[1]))
    index.update(representative_KNRD, torch.ones(representative_KNRD.shape[-1]))
    return index


@pytest.mark.parametrize("number", [8, 13, 100])
@pytest.mark.parametrize("recency", [1.0, 0.7])
def test_equals_every_representative_where_all_lists_are_read(number: int, recency: float) -> None:
    """Three rows that hold different blocks; the last blocks are in no list yet."""
    generator = torch.Generator().manual_seed(number)
    representative_KNRD = torch.randn(KV_HEADS, number, REPRESENTATIVES, WIDTH, generator=generator)
    query_BHTD = torch.randn(3, HEADS, 5, WIDTH, generator=generator)
    held_BN = torch.rand(3, number, generator=generator) < 0.6
    index = updated(small_index(), representative_KNRD)
    assert index.listed == number // 8 * 8
    for held in (held_BN, None):
        torch.testing.assert_close(
            indexed_claims(query_BHTD, representative_KNRD, held, recency, index, ALL),
            claims(query_BHTD, representative_KNRD, held, recency),
        )


def test_a_query_that_asks_for_nothing_claims_no_more_than_its_share() -> None:
    """Of a query of zeros every representative gets the same, also where most of them stand in lists not read."""
    representative_KNRD = torch.randn(1, 200, REPRESENTATIVES, WIDTH, generator=torch.Generator().manual_seed(0))
    index = updated(small_index(), representative_KNRD)
    claim_N = indexed_claims(torch.zeros(1, 1, 1, WIDTH), representative_KNRD, None, 1.0, index, 100)[0, 0]
    share_N = claim_N * 200 * REPRESENTATIVES
    torch.testing.assert_close(share_N, share_N.round(), rtol=0, atol=1e-3)
    assert 0 < share_N.sum() < 200


def test_finds_what_every_representative_would_while_reading_few() -> None:
    """4,096 blocks about 300 things, asked for some of them: the four blocks of largest claim are the same."""
    generator = torch.Generator().manual_seed(0)
    blocks, each, width, asked = 4096, 4, 32, 100
    things_CD = 3 * torch.nn.functional.normalize(torch.randn(300, width, generator=generator), dim=-1)
    about_NR = torch.randint(300, (blocks, each), generator=generator)
    noise_NRD = 0.3 * torch.randn(blocks, each, width, generator=generator)
    representative_KNRD = (things_CD[about_NR] + noise_NRD)[None]
    index = updated(BlockIndex(fewest=1), representative_KNRD)
    query_BHTD = 8 * representative_KNRD[0, torch.randint(blocks, (asked,), generator=generator), 0][:, None, None]
    exact_BN = claims(query_BHTD, representative_KNRD, None, 1.0)[0]
    found_BN = indexed_claims(query_BHTD, representative_KNRD, None, 1.0, index, 400)[0]
    assert (found_BN > 0).float().mean() < 0.1
    same = [
        len(set(exact_N.topk(4).indices.tolist()) & set(found_N.topk(4).indices.tolist()))
        for exact_N, found_N in zip(exact_BN, found_BN, strict=True)
    ]
    assert sum(same) >= 0.99 * 4 * asked


def members(index: BlockIndex, head: int) -> list[int]:
    """All that reading every list finds."""
    return sorted(read(index, torch.zeros(KV_HEADS, 1, 1, WIDTH), ALL)[head].tolist())


def read(index: BlockIndex, query_K11D: Tensor, candidates: int) -> list[Tensor]:
    """What each kv head finds."""
    found = index.look_up(query_K11D, torch.ones(1), torch.ones(1), candidates)
    return [member_M[is_M] for member_M, is_M in zip(found.member_KBM[:, 0], found.is_member_KBM[:, 0], strict=True)]


def test_each_representative_is_in_one_list_the_nearest_also_where_a_place_was_used_again() -> None:
    generator = torch.Generator().manual_seed(0)
    representative_KNRD = torch.randn(KV_HEADS, 40, REPRESENTATIVES, WIDTH, generator=generator)
    index = updated(small_index(), representative_KNRD[:, :35])
    assert index.listed == 32
    representative_KNRD[:, 3:20] = torch.randn(KV_HEADS, 17, REPRESENTATIVES, WIDTH, generator=generator)
    index.written([*range(3, 20), *range(35, 40)])
    index.update(representative_KNRD, torch.ones(WIDTH))
    assert index.listed == 40
    for head in range(KV_HEADS):
        assert members(index, head) == list(range(40 * REPRESENTATIVES))
    # Reading one list finds members of one list, which have the same centroids nearest to them.
    lists = index._lists
    assert lists is not None
    keys_KMD = representative_KNRD.flatten(1, 2)
    for number in range(0, 40 * REPRESENTATIVES, 7):
        found = read(index, 10 * keys_KMD[:, number, None, None], 1)
        for head, (member_M, key_MD) in enumerate(zip(found, keys_KMD, strict=True)):
            assert len(member_M)
            coarse_M = nearest(key_MD[member_M], lists.coarse_KAD[head])
            assert len(coarse_M.unique()) == 1
            assert len(nearest(key_MD[member_M], lists.fine_KAFD[head, coarse_M[0]]).unique()) == 1


def test_places_that_were_given_up_are_not_found() -> None:
    generator = torch.Generator().manual_seed(0)
    representative_KNRD = torch.randn(KV_HEADS, 40, REPRESENTATIVES, WIDTH, generator=generator)
    index = updated(small_index(), representative_KNRD)
    index.update(representative_KNRD[:, :21], torch.ones(WIDTH))
    assert index.listed == 16
    assert members(index, 0) == list(range(16 * REPRESENTATIVES))
    index.update(representative_KNRD[:, :7], torch.ones(WIDTH))
    assert index.listed == 0


def test_what_forks_write_again_and_again_is_taken_in_once() -> None:
    representative_KNRD = torch.randn(KV_HEADS, 24, REPRESENTATIVES, WIDTH, generator=torch.Generator().manual_seed(0))
    index = updated(small_index(), representative_KNRD)
    lists = index._lists
    assert lists is not None
    for number in (20, 24, 18, 24):
        index.written(range(16, number))
        index.update(representative_KNRD[:, :number], torch.ones(WIDTH))
    assert index._lists is lists and lists.count_KC1.sum() == KV_HEADS * 24 * REPRESENTATIVES
    assert members(index, 1) == list(range(24 * REPRESENTATIVES))


def test_lists_are_learnt_anew_when_the_text_has_grown() -> None:
    generator = torch.Generator().manual_seed(0)
    representative_KNRD = torch.randn(KV_HEADS, 512, REPRESENTATIVES, WIDTH, generator=generator)
    index = updated(small_index(), representative_KNRD[:, :16])
    sizes = []
    for number in (16, 48, 64, 512):
        index.written(range(number))
        index.update(representative_KNRD[:, :number], torch.ones(WIDTH))
        assert index._lists is not None
        sizes.append(index._lists.size)
        assert members(index, 1) == list(range(number * REPRESENTATIVES))
    assert sizes == [64, 64, 256, 256]


def test_k_means_finds_the_means_of_clouds() -> None:
    """Three clouds far apart, in an order that starts with one key of each: their means are a closed form."""
    generator = torch.Generator().manual_seed(3)
    cloud_M = torch.arange(300) % 3
    key_MD = 100 * torch.eye(3, WIDTH)[cloud_M] + torch.randn(300, WIDTH, generator=generator)
    means_CD = torch.stack([key_MD[cloud_M == cloud].mean(0) for cloud in range(3)])
    torch.testing.assert_close(k_means(key_MD, 3), means_CD)


def test_what_is_known_of_a_list_is_mean_and_variance_of_its_members() -> None:
    generator = torch.Generator().manual_seed(0)
    key_MD = torch.randn(4000, WIDTH, generator=generator) + 3
    lists = Lists.learn(key_MD[None, :1000], torch.ones(WIDTH))
    list_M = torch.cat([lists.place(piece_MD[None])[0] for piece_MD in key_MD.split(1000)])
    for piece_M in torch.arange(4000).split(700):
        lists.take_in(key_MD[None, piece_M], list_M[None, piece_M])
    query_D = torch.randn(WIDTH, generator=generator)
    mean_C, best_C = (score_111C[0, 0, 0] for score_111C in lists.scores(query_D[None, None, None]))
    usual_D = sum(
        (key_MD[list_M == number] - key_MD[list_M == number].mean(0)).square().sum(0) for number in list_M.unique()
    ) / len(key_MD)
    for number in list_M.unique().tolist():
        members_MD = key_MD[list_M == number]
        torch.testing.assert_close(mean_C[number], members_MD.mean(0) @ query_D, rtol=1e-4, atol=1e-4)
        scatter_D = (members_MD - members_MD.mean(0)).square().sum(0)
        variance_D = (scatter_D + PRIOR * usual_D) / (len(members_MD) + PRIOR)
        expected = mean_C[number] + SPREAD * (variance_D @ query_D.square()).sqrt()
        torch.testing.assert_close(best_C[number], expected, rtol=1e-3, atol=1e-3)


def with_index(cache: BlockMemoryCache) -> BlockMemoryCache:
    """The same cache; its layers index from the first blocks on."""
    for layer in cache.layers:
        assert isinstance(layer, BlockLayer)
        layer.store = BlockStore(index=small_index())
    return cache


def test_forks_truncation_and_rows_are_as_without_an_index(model: Transformer) -> None:
    """Blocks of forks come and go, their places are used again, rows hold different blocks: the same is read."""
    tokens_2T = torch.randint(97, (2, 1500), generator=torch.Generator().manual_seed(4))
    policy = BlockMemory(candidates=ALL)
    caches = [policy.start(model.config, model.position, 2) for _ in range(2)]
    with_index(caches[1])
    outs: list[list[Tensor]] = [[], []]
    for out, cache in zip(outs, caches, strict=True):
        model.hidden(tokens_2T[:, :400], cache=cache)
        fork = cache.select([1, 1, 0])
        out.append(model(tokens_2T[[0, 1, 0], 400:700], cache=fork))
        model.hidden(tokens_2T[:, 400:600], Layout.rows([200, 150], [400, 400]), cache)
        smaller = fork.select([2, 0])
        del fork
        out.append(model(tokens_2T[:, 600:900], Layout.rows([300, 300], [600, 550]), cache))
        smaller.truncate([300, 650])
        out += [model(tokens_2T[:, step : step + 1], cache=smaller) for step in range(20)]
        del smaller
        cache.truncate([500, 800])
        out.append(model(tokens_2T[:, 900:1500], cache=cache))
    for exact, indexed in zip(*outs, strict=True):
        torch.testing.assert_close(indexed, exact, atol=2e-5, rtol=0)
    for layer in caches[1].layers:
        assert isinstance(layer, BlockLayer) and layer.store.index is not None
        assert layer.store.index.listed >= 32


def test_options_say_who_has_an_index(model: Transformer) -> None:
    def has_index(policy: BlockMemory) -> bool:
        (layer, *_) = policy.start(model.config, model.position, 1).layers
        assert isinstance(layer, BlockLayer)
        return layer.store.index is not None

    assert has_index(BlockMemory())
    assert not has_index(BlockMemory(candidates=0))
    assert not has_index(BlockMemory(representative="all"))
    with pytest.raises(ValueError, match="candidates=-1: a number, or 0"):
        BlockMemory(candidates=-1)


def test_bytes_of_the_index_are_reported(model: Transformer) -> None:
    cache = with_index(BlockMemory().start(model.config, model.position, 1))
    model.hidden(torch.zeros(1, 2000, dtype=torch.int64), cache=cache)
    for layer in cache.layers:
        assert isinstance(layer, BlockLayer) and layer.store.index is not None
        index = layer.store.index
        held = [*vars(index).values(), *vars(index._lists).values()]
        kept = {id(value): value.untyped_storage().nbytes() for value in held if isinstance(value, Tensor)}
        assert index.nbytes() == sum(kept.values()) > 0
