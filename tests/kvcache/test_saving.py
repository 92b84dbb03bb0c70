"""Saved, loaded and joined: every policy with every store goes on as if nothing had happened."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from handscroll.kvcache import POLICIES, make_policy, memory_file
from handscroll.kvcache.block_index import BlockIndex
from handscroll.kvcache.block_layer import BlockLayer
from handscroll.kvcache.block_lists import Lists
from handscroll.kvcache.heavy_hitters import HeavyLayer
from handscroll.kvcache.layered import LayeredCache
from handscroll.kvcache.memory_file import Memory
from handscroll.kvcache.prompt_layer import PromptLayer
from handscroll.kvcache.segment_recurrence import SegmentLayer
from handscroll.kvcache.state import PLAIN, read_state
from handscroll.kvcache.window_layer import WindowLayer
from handscroll.model import Layout, ModelConfig, Transformer

TOLERANCE = 2e-5
BLOCKS = {"policy": "block_memory", "window": 40, "block_size": 5, "blocks": 3, "reselect": 3}
INNER = {
    "full": "full",
    "sliding_window": {"policy": "sliding_window", "window": 30},
    "segment_recurrence": {"policy": "segment_recurrence", "segment": 20, "memory": 15},
    "attention_sinks": {"policy": "attention_sinks", "sinks": 3, "window": 50, "tile": 7},
    "block_memory": BLOCKS,
    "block_memory_attended": BLOCKS | {"representative": "attended", "representatives": 2},
    "block_memory_per_head": BLOCKS | {"representative": "bounds", "selection": "per_head", "local_layers": 1},
    "block_memory_sentences": BLOCKS | {"cut": "sentences", "dense_layers": 1},
    "heavy_hitters": {"policy": "heavy_hitters", "heavy": 30, "recent": 40},
    "heavy_hitters_text": {"policy": "heavy_hitters", "heavy": 40, "recent": 30, "positions": "text"},
    "snapkv": {"policy": "snapkv", "budget": 50, "observation": 9},
    "per_head_budget": {"policy": "per_head_budget", "budget": 50, "observation": 9, "scorer": "received"},
}
STORES = {
    "contiguous": {},
    "quantized": {"policy": "quantized", "bits": 4, "recent": 10},
    "offloaded": {"policy": "offloaded", "recent": 10},
    "file": {"policy": "offloaded", "recent": 0, "to": "file"},
}
# Every policy over two stores, some over all of them.
VARIANTS = {
    f"{inner} {store}": (inner, store)
    for inner in INNER
    for store in STORES
    if store in ("contiguous", "offloaded") or inner in ("full", "attention_sinks", "block_memory")
}


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = Transformer(ModelConfig(97, 32, 2, 4, 2, 8, 48, 128, qkv_bias=True), seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


@pytest.fixture(params=VARIANTS)
def options(request: pytest.FixtureRequest) -> dict[str, object]:
    inner, store = VARIANTS[request.param]
    named = INNER[inner]
    return {**STORES[store], "inner": named} if STORES[store] else named  # type: ignore[return-value,dict-item]


def start(model: Transformer, options: object, rows: int) -> LayeredCache:
    return make_policy(options).start(model.config, model.position, rows)  # type: ignore[arg-type]


def text(rows: int, length: int) -> Tensor:
    return torch.randint(97, (rows, length), generator=torch.Generator().manual_seed(length))


def feed(model: Transformer, cache: LayeredCache, tokens_BT: Tensor, lengths: list[int] | None = None) -> Tensor:
    """Logits; every seventh word of the vocabulary ends a sentence."""
    lengths = lengths or [tokens_BT.shape[1]] * len(tokens_BT)
    return model(tokens_BT, Layout.rows(lengths, cache.lengths, ends_BT=tokens_BT % 7 == 0), cache)


def go_back(cache: LayeredCache, cuts: list[int]) -> None:
    """Except where what it would need may have been dropped."""
    if not isinstance(cache.layers[0], WindowLayer | SegmentLayer | HeavyLayer | PromptLayer):
        cache.truncate([length - cut for length, cut in zip(cache.lengths, cuts, strict=True)])


def go_on(model: Transformer, cache: LayeredCache) -> Tensor:
    """Logits of single tokens, of a chunk, and after going back."""
    rows = len(cache.lengths)
    tokens_BT = text(rows, 60)
    logits = [feed(model, cache, tokens_BT[:, place : place + 1]) for place in range(10)]
    logits.append(feed(model, cache, tokens_BT[:, 10:50]))
    go_back(cache, [3] * rows)
    return torch.cat([*logits, feed(model, cache, tokens_BT[:, 50:])], dim=1)


def saved(cache: LayeredCache, options: object, model: Transformer, path: Path) -> LayeredCache:
    policy = make_policy(options)  # type: ignore[arg-type]
    memory_file.save(path, Memory(cache, policy, {"title": "a book", "ids": text(1, 9)}, "tests/model"), model)
    loaded = memory_file.load(path, model)
    assert loaded.policy == policy
    assert (loaded.notes["title"], loaded.maker) == ("a book", "tests/model")
    assert loaded.notes["ids"].equal(text(1, 9))
    return loaded.cache


def test_every_policy_is_saved_here() -> None:
    named = {option["policy"] for option in [*STORES.values(), *INNER.values()] if isinstance(option, dict) and option}
    assert set(POLICIES) == named | {"full"}


def test_a_loaded_cache_goes_on_as_the_saved_one(
    options: dict[str, object], model: Transformer, tmp_path: Path
) -> None:
    """Ragged rows, one of them forked, one cut, in the middle of decoding."""
    cache = start(model, options, 2)
    feed(model, cache, text(2, 260), [260, 150])
    dropped = cache.select([0])
    feed(model, dropped, text(1, 90))
    del dropped
    cache = cache.select([1, 0, 0])
    for token in range(4):
        feed(model, cache, torch.full((3, 1), token))
    feed(model, cache, text(3, 80), [80, 0, 33])
    for token in range(4):
        feed(model, cache, torch.full((3, 1), token))
    go_back(cache, [0, 5, 0])
    feed(model, cache, torch.full((3, 1), 7))
    loaded = saved(cache, options, model, tmp_path / "book.memory")
    before = (tmp_path / "book.memory").read_bytes()
    assert loaded.lengths == cache.lengths
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in cache.layers]
    again = saved(loaded, options, model, tmp_path / "again.memory")
    assert (tmp_path / "again.memory").read_bytes() == before, "something was not taken back"
    expected = go_on(model, cache)
    torch.testing.assert_close(go_on(model, loaded), expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(go_on(model, again), expected, atol=TOLERANCE, rtol=0)
    assert (tmp_path / "book.memory").read_bytes() == before, "going on changed the file that is mapped"
    assert sorted(os.listdir(tmp_path)) == ["again.memory", "book.memory"]


def test_joined_rows_go_on_as_each_alone(options: dict[str, object], model: Transformer, tmp_path: Path) -> None:
    def read(lengths: list[int]) -> LayeredCache:
        cache = start(model, options, len(lengths))
        feed(model, cache, text(len(lengths), max(lengths)), lengths)
        for token in range(len(lengths)):
            feed(model, cache, torch.full((len(lengths), 1), token))
        return cache

    parts = [read([250]), read([31, 190])]
    fork = parts[1].select([1])
    feed(model, fork, text(1, 50))
    loaded = saved(parts[0], options, model, tmp_path / "book.memory")
    joined = loaded.join(parts[1]).join(start(model, options, 1)).join(fork).join(parts[1].select([0]))
    assert joined.lengths == (251, 33, 192, 0, 242, 33)
    feed(model, joined, text(1, 5).expand(6, 5), [0, 0, 0, 5, 0, 0])
    alone = start(model, options, 1)
    feed(model, alone, text(1, 5))
    # Several at once, then single tokens.
    pieces = [text(6, 20), *text(6, 8).split(1, dim=1)]
    together = torch.cat([feed(model, joined, piece_BT) for piece_BT in pieces], dim=1)
    rows = [parts[0], parts[1].select([0]), parts[1].select([1]), alone, fork, parts[1].select([0])]
    for row, cache in enumerate(rows):
        apart = torch.cat([feed(model, cache, piece_BT[row : row + 1]) for piece_BT in pieces], dim=1)
        if "bits" in options and any(name in str(options) for name in ("attention_sinks", "heavy_hitters")):
            # When a tile is settled follows the batch: other tokens share a scale.
            assert float((together[row] - apart[0]).abs().mean()) < 0.03 * float(apart.std()), row
        else:
            torch.testing.assert_close(together[row], apart[0], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("inner", INNER)
def test_what_inference_loaded_and_joined_goes_on_outside_of_it(inner: str, model: Transformer, tmp_path: Path) -> None:
    def grown() -> list[LayeredCache]:
        cache = start(model, INNER[inner], 1)
        feed(model, cache, text(1, 200))
        loaded = saved(cache, INNER[inner], model, tmp_path / "book.memory")
        return [loaded.join(cache), loaded]

    expected = [go_on(model, cache) for cache in grown()]
    with torch.inference_mode():
        caches = grown()
    for cache, logits in zip(caches, expected, strict=True):
        torch.testing.assert_close(go_on(model, cache), logits, atol=TOLERANCE, rtol=0)


def test_blocks_that_took_the_place_of_others_are_found(
    model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an index nor blocks kept on a device remember what stood there before a join, or before loading."""

    def read(options: dict[str, object]) -> list[Tensor]:
        cache, other = start(model, options, 1), start(model, options, 1)
        feed(model, cache, text(1, 300))
        feed(model, other, text(1, 410))
        fork = cache.select([0])
        feed(model, fork, text(1, 250))
        for token in range(50):
            feed(model, fork, torch.tensor([[token]]))
        del fork
        joined = cache.join(other)
        logits = [feed(model, joined, text(2, 6)[:, place : place + 1]) for place in range(6)]
        return [*logits, go_on(model, saved(joined, options, model, tmp_path / "book.memory"))]

    options = BLOCKS | {"blocks": 10, "reselect": 1}
    exact = read(options)
    monkeypatch.setattr("handscroll.kvcache.block_lru.is_apart", lambda device: True)
    monkeypatch.setattr("handscroll.kvcache.block_memory.BlockIndex", partial(BlockIndex, segment=8, fewest=1))
    for ours, theirs in zip(read(options | {"device_blocks": 60, "candidates": 10**6}), exact, strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.fixture
def small_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists from the first blocks on."""
    monkeypatch.setattr("handscroll.kvcache.block_memory.BlockIndex", partial(BlockIndex, segment=8, fewest=1))


def refuse_to_learn(key_KMD: Tensor, scale_D: Tensor) -> Lists:
    raise AssertionError("lists were learnt anew")


@pytest.mark.usefixtures("small_index")
def test_lists_are_saved(model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No list is learnt after loading, a few are read, and the same blocks and tokens come out, number for number."""
    options = BLOCKS | {"reselect": 1, "candidates": 30}
    cache = start(model, options, 1)
    for piece_1T in text(1, 900).split(100, dim=1):
        feed(model, cache, piece_1T)
    cache.truncate([700])
    loaded = saved(cache, options, model, tmp_path / "book.memory")
    monkeypatch.setattr(Lists, "learn", refuse_to_learn)
    assert go_on(model, loaded).equal(go_on(model, cache))
    for ours, theirs in zip(loaded.layers, cache.layers, strict=True):
        assert isinstance(ours, BlockLayer) and isinstance(theirs, BlockLayer)
        assert ours.trace(0) == theirs.trace(0)
        assert ours.store.index is not None and ours.store.index.listed > 100
        assert (ours.rows[0].claims_KN == 0).any(), "every list was read"


@pytest.mark.usefixtures("small_index")
def test_a_memory_without_lists_learns_them(
    model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As memories were before lists were saved."""
    options = BLOCKS | {"reselect": 1, "candidates": 10**6}
    cache = start(model, options, 1)
    feed(model, cache, text(1, 500))
    monkeypatch.setattr(BlockIndex, "state", lambda index, places: None)
    loaded = saved(cache, options, model, tmp_path / "book.memory")
    torch.testing.assert_close(go_on(model, loaded), go_on(model, cache), atol=TOLERANCE, rtol=0)


def test_caches_that_began_otherwise_are_not_joined(model: Transformer) -> None:
    full = start(model, "full", 1)
    for other in ("sliding_window", {"policy": "quantized"}, {"policy": "offloaded", "recent": 1}, BLOCKS):
        with pytest.raises(ValueError, match="can't be joined"):
            full.join(start(model, other, 1))
    with pytest.raises(ValueError, match="caches of two models can't be joined"):
        full.join(start(Transformer(model.config, seed=2), "full", 1))


def test_an_empty_cache_is_saved_too(options: dict[str, object], model: Transformer, tmp_path: Path) -> None:
    loaded = saved(start(model, options, 2), options, model, tmp_path / "book.memory")
    assert loaded.lengths == (0, 0)
    torch.testing.assert_close(go_on(model, loaded), go_on(model, start(model, options, 2)), atol=TOLERANCE, rtol=0)


def test_spare_room_is_not_saved(model: Transformer, tmp_path: Path) -> None:
    cache = start(model, BLOCKS, 1)
    for piece_1T in text(1, 4000).split(500, dim=1):
        model(piece_1T, cache=cache)
    saved(cache, BLOCKS, model, tmp_path / "book.memory")
    per_token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, kv heads, head width, bytes
    representatives = 16 / 5 / 2  # of a block of 5 keys, beside keys and values
    size = (tmp_path / "book.memory").stat().st_size
    assert size < 4000 * per_token * (1 + representatives) * 1.1
    # An archive stays in its file: what a fork adds is all that is held besides.
    loaded = memory_file.load(tmp_path / "book.memory", model).cache
    blocks = loaded.layers[0].store.blocks  # type: ignore[attr-defined]
    assert [len(room.front) == len(room) for room in blocks.rooms] == [True, True]
    model(text(1, 200), cache=loaded)
    assert all(0 < len(room.tensor) < len(room.front) / 2 for room in blocks.rooms)


def test_the_file_is_plain_safetensors(model: Transformer, tmp_path: Path) -> None:
    """An outside authority reads what was saved, and finds the keys that the cache holds."""
    cache = start(model, "full", 2)
    model(text(2, 50), cache=cache)
    saved(cache, "full", model, tmp_path / "book.memory")
    with safe_open(tmp_path / "book.memory", "pt") as file:
        plain = json.loads(file.metadata()[PLAIN])
        key_BKSD = file.get_tensor("cache.layers.1.store.key")
    assert plain["policy"] == {"policy": "full"}
    assert plain["lengths"] == [50, 50]
    assert key_BKSD.equal(cache.layers[1].store.key_BKSD[:, :, :50])  # type: ignore[attr-defined]


@pytest.fixture
def path(model: Transformer, tmp_path: Path) -> Path:
    cache = start(model, "full", 1)
    model(text(1, 50), cache=cache)
    saved(cache, "full", model, tmp_path / "book.memory")
    return tmp_path / "book.memory"


def test_memories_of_other_models_are_refused(model: Transformer, path: Path) -> None:
    wide = Transformer(ModelConfig(97, 64, 2, 4, 2, 8, 48, 128), seed=1)
    with pytest.raises(ValueError, match=r"made by another model, tests/model \(qkv_bias is True there and False here"):
        memory_file.load(path, wide)
    changed = Transformer(model.config, seed=1)
    changed.load_state_dict(model.state_dict())
    memory_file.load(path, changed)
    with torch.no_grad():
        changed.layers[1].attention_norm.weight[0] += 1e-3  # type: ignore[union-attr,index,operator]
    with pytest.raises(ValueError, match="of the same shape, but with other weights"):
        memory_file.load(path, changed)


def test_what_is_no_memory_is_refused(model: Transformer, path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    for number in (3, 200, len(content) - 1):
        path.write_bytes(content[:number])
        with pytest.raises(ValueError, match="is not a memory, or it is damaged or cut short"):
            memory_file.load(path, model)
    (tmp_path / "book.txt").write_text("Once upon a time there was a text, of more than a few bytes.")
    with pytest.raises(ValueError, match=r"book\.txt is not a memory, or it is damaged"):
        memory_file.load(tmp_path / "book.txt", model)
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is not a memory but another safetensors file"):
        memory_file.load(tmp_path / "other.safetensors", model)
    with pytest.raises(FileNotFoundError, match="is not a file: give a memory"):
        memory_file.load(tmp_path, model)


def test_a_newer_format_is_refused(model: Transformer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_file, "FORMAT", 0)
    with pytest.raises(ValueError, match=r"in a newer format \(1\) than this version knows \(0\): use that version"):
        memory_file.load(path, model)


def test_a_failed_save_leaves_the_old_file(model: Transformer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    cache = start(model, "full", 1)
    with pytest.raises(OSError, match="No space left"):
        memory_file.save(path, Memory(cache, make_policy("full"), {}, "m"), model)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    assert read_state(path)["format"] == 1
