"""The blocks that stay on the device: the standard library's LRU counts the same, and what is read is the archive."""

import functools

import pytest
import torch

from handscroll.kvcache import BlockMemory
from handscroll.kvcache.archive import ArchivedBlocks
from handscroll.kvcache.block_layer import BlockLayer
from handscroll.kvcache.block_lru import LruBlockStore, LruCounts
from handscroll.kvcache.block_memory import BlockMemoryCache
from handscroll.kvcache.block_store import BlockStore
from handscroll.model import Transformer

KV_HEADS, LENGTH, WIDTH = 2, 3, 4
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if what is on the device were not in the host's memory."""
    monkeypatch.setattr("handscroll.kvcache.block_lru.is_apart", lambda device: True)


def archive(store: BlockStore, blocks: int, seed: int) -> ArchivedBlocks:
    generator = torch.Generator().manual_seed(seed)
    key_NKLD, value_NKLD = torch.randn(2, blocks, KV_HEADS, LENGTH, WIDTH, generator=generator)
    return store.append(key_NKLD, value_NKLD, key_NKLD[:, :, :1].transpose(0, 1))


def test_counts_as_the_standard_librarys_lru_does() -> None:
    store, generator = LruBlockStore(4), torch.Generator().manual_seed(0)
    held = archive(store, 9, seed=0)
    kept = [functools.lru_cache(maxsize=4)(lambda number: number) for _ in range(KV_HEADS)]
    for _ in range(200):
        numbers_K1 = torch.randint(9, (KV_HEADS, 1), generator=generator)
        store.gather(numbers_K1, CPU)
        for head, (number,) in zip(kept, numbers_K1.tolist(), strict=True):
            head(number)
    hits, misses = (sum(getattr(head.cache_info(), name) for head in kept) for name in ("hits", "misses"))
    assert store.counts == LruCounts(hits, misses, misses - 4 * KV_HEADS)
    del held


def test_gives_what_the_archive_holds_also_where_places_are_used_again() -> None:
    store, plain, generator = LruBlockStore(5), BlockStore(), torch.Generator().manual_seed(0)
    held: list[tuple[ArchivedBlocks, ArchivedBlocks]] = []
    for step in range(60):
        held.append((archive(store, 3, seed=step), archive(plain, 3, seed=step)))
        if len(held) > 3:
            del held[int(torch.randint(len(held) - 1, (), generator=generator))]
        numbers_N = torch.cat([mine.numbers_N for mine, _ in held])
        chosen_KN = torch.stack([torch.randperm(len(numbers_N), generator=generator)[:3] for _ in range(KV_HEADS)])
        for wanted_KN in (numbers_N[chosen_KN], numbers_N[chosen_KN], numbers_N.expand(KV_HEADS, -1)):
            for mine, expected in zip(store.gather(wanted_KN, CPU), plain.gather(wanted_KN, CPU), strict=True):
                assert torch.equal(mine, expected)
    assert plain.count == store.count < 30
    assert min(store.counts) > 0


def test_is_counted_as_device_memory() -> None:
    store = LruBlockStore(5)
    held = archive(store, 9, seed=0)
    before = store.bytes().device, store.bytes().host
    store.gather(torch.zeros(KV_HEADS, 1, dtype=torch.int64), CPU)
    assert store.bytes().device - before[0] == 2 * KV_HEADS * 5 * LENGTH * WIDTH * 4
    assert store.bytes().host == before[1]
    del held


@pytest.mark.parametrize("is_apart", [True, False])
def test_copies_nothing_where_host_and_device_are_one(
    is_apart: bool, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handscroll.kvcache.block_lru.is_apart", lambda device: is_apart)
    tokens_1T = torch.randint(97, (1, 500), generator=torch.Generator().manual_seed(4))
    logits, device = [], []
    for blocks in (0, 8):
        cache = BlockMemory(device_blocks=blocks).start(model.config, model.position, 1)
        logits.append(model(tokens_1T, cache=cache))
        device.append(cache.bytes().device)
        assert isinstance(cache, BlockMemoryCache)
        assert [layer.device_cache is None for layer in cache.statistics()] == [blocks == 0] * 2
    assert torch.equal(*logits)
    assert (device[1] > device[0]) == is_apart


def test_forks_share_what_is_on_the_device(model: Transformer) -> None:
    cache = BlockMemory(device_blocks=8).start(model.config, model.position, 1)
    model.hidden(torch.zeros(1, 500, dtype=torch.int64), cache=cache)
    fork = cache.select([0, 0])
    for layer, forked in zip(cache.layers, fork.layers, strict=True):
        assert isinstance(layer, BlockLayer) and isinstance(forked, BlockLayer)
        assert forked.store is layer.store
