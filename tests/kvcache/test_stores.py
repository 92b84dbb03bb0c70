"""Stores: any policy in few bits, in the host's memory or in a file, against slow references; bytes are fewer."""

import copy
import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor

from handscroll.kernels.quantize import dequantize, quantize
from handscroll.kvcache import HeavyHitters, PerHeadBudget, SnapKV, describe, full_layer, make_policy, store
from handscroll.kvcache.blocks import GROUP
from handscroll.kvcache.full_layer import FullLayer
from handscroll.kvcache.keeping import keep
from handscroll.kvcache.layered import LayeredCache, Origin, PerForward
from handscroll.kvcache.store import TokenStore
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.model import Cache, Layout, Transformer

INNER = ["full", "sliding_window", "attention_sinks", {"policy": "block_memory", "window": 40}]
EVICTING = [
    {"policy": "heavy_hitters", "heavy": 30, "recent": 50},
    {"policy": "snapkv", "budget": 90},
    {"policy": "per_head_budget", "budget": 90},
]


def feed(model: Transformer, cache: Cache, tokens_BT: Tensor, chunks: list[int]) -> Tensor:
    return torch.cat([model(piece, cache=cache) for piece in tokens_BT.split(chunks, dim=1)], dim=1)


def start(options: object, model: Transformer, rows: int) -> Cache:
    return make_policy(options).start(model.config, model.position, rows)  # type: ignore[arg-type]


def text(rows: int, length: int) -> Tensor:
    return torch.randint(97, (rows, length), generator=torch.Generator().manual_seed(length))


class RoundTrip(TokenStore):
    """All tokens in one place; older groups are rounded as KIVI says, once a forward has been answered."""

    def __init__(self, rows: int, bits: int, recent: int):
        super().__init__(rows)
        self.bits, self.recent, self.rounded = bits, recent, [0] * rows

    def settle(self) -> None:
        assert self.key_BKSD is not None and self.value_BKSD is not None
        for row, length in enumerate(self.lengths):
            while length - self.rounded[row] >= self.recent + GROUP:
                span = slice(self.rounded[row], self.rounded[row] + GROUP)
                for head in range(self.key_BKSD.shape[1]):
                    key_SD, value_SD = self.key_BKSD[row, head, span], self.value_BKSD[row, head, span]
                    key_SD.copy_(dequantize(quantize(key_SD, self.bits, 0), self.bits, key_SD.dtype))
                    for token_D in value_SD:
                        token_D.copy_(dequantize(quantize(token_D, self.bits, 0), self.bits, token_D.dtype))
                self.rounded[row] += GROUP


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("recent", [0, 40])
@pytest.mark.parametrize("chunks", [[300], [150, 1, 99, 50], [80, *[1] * 60]])
def test_quantized_full_equals_the_slow_reference(
    model: Transformer, bits: int, recent: int, chunks: list[int]
) -> None:
    tokens_BT, shared = text(2, sum(chunks)), PerForward()
    layers = [FullLayer(model.position, RoundTrip(2, bits, recent), shared) for _ in model.layers]
    origin = Origin("round trip", CONTIGUOUS, model.position)
    expected = feed(model, LayeredCache(layers, shared, origin), tokens_BT, chunks)
    logits = feed(model, start({"policy": "quantized", "bits": bits, "recent": recent}, model, 2), tokens_BT, chunks)
    error = float((logits - expected).abs().mean())
    rounding = float((logits - feed(model, start("full", model, 2), tokens_BT, chunks)).abs().mean())
    if len(chunks) == 1:
        assert error == rounding == 0, "a forward's own tokens are whole"
    else:
        # A number in the middle between two codes may be rounded either way, as sums in another order differ.
        assert 20 * error < rounding


@pytest.mark.parametrize("inner", INNER, ids=str)
def test_fewer_bits_come_nearer_the_more_they_are(model: Transformer, inner: object) -> None:
    tokens_BT, chunks = text(2, 400), [100, 100, 100, *[1] * 100]
    whole = feed(model, start(inner, model, 2), tokens_BT, chunks)
    errors = {}
    for bits in (8, 4):
        options = {"policy": "quantized", "bits": bits, "recent": 0, "inner": inner}
        errors[bits] = float((feed(model, start(options, model, 2), tokens_BT, chunks) - whole).abs().mean())
    assert 0 < errors[8] < errors[4] / 4
    assert errors[8] < 0.02 * float(whole.std())


@pytest.mark.parametrize("to", ["host", "file"])
@pytest.mark.parametrize("inner", INNER + EVICTING, ids=str)
def test_where_bytes_live_changes_no_answer(model: Transformer, inner: object, to: str, tmp_path: Path) -> None:
    tokens_BT, chunks = text(2, 400), [150, 1, 99, 130, *[1] * 20]
    folder = str(tmp_path) if to == "file" else None
    for within in (inner, {"policy": "quantized", "bits": 4, "inner": inner, "recent": 7}):
        away = start({"policy": "offloaded", "to": to, "folder": folder, "recent": 7, "inner": within}, model, 2)
        here = start(within, model, 2)
        logits = feed(model, away, tokens_BT, chunks)
        torch.testing.assert_close(logits, feed(model, here, tokens_BT, chunks), atol=5e-5, rtol=0)
        assert away.bytes().host > 0
    assert not list(tmp_path.iterdir()), "a mapped file has no name that could stay behind"


def test_bytes_are_fewer(model: Transformer) -> None:
    tokens_BT = text(1, 4096)
    held = {}
    for name, options in {
        "full": "full",
        "8": {"policy": "quantized", "bits": 8},
        "4": {"policy": "quantized", "bits": 4},
        "host": {"policy": "offloaded"},
    }.items():
        cache = start(options, model, 1)
        feed(model, cache, tokens_BT, [1024] * 4)
        held[name] = cache.bytes()
    full = held["full"].device
    assert held["full"].host == 0
    # Codes, and 4 bytes of scale and zero for every 32 of them or, where a head is narrower, for every value. Up to a
    # quarter of an archive's room is to spare.
    head = model.config.head_width
    for bits in (8, 4):
        expected = (2 * bits / 8 + 4 / GROUP + 4 / min(GROUP, head)) / 8
        assert full * expected <= held[str(bits)].device <= full * (1.25 * expected + 0.05)
    assert held["host"].device < full * 0.1
    assert full * 0.9 <= held["host"].host <= full * 1.25


def test_truncating_into_an_archive_brings_its_block_back(model: Transformer) -> None:
    tokens_BT = text(2, 300)
    cache = start({"policy": "offloaded", "recent": 10}, model, 2)
    feed(model, cache, tokens_BT, [300])
    cache.truncate([131, 7])
    logits = model(tokens_BT[:, 131:140], cache=cache)
    torch.testing.assert_close(logits[0], model(tokens_BT[:1, :140])[0, 131:], atol=2e-5, rtol=0)
    again = model(torch.cat((tokens_BT[1:, :7], tokens_BT[1:, 131:140]), dim=1))[0, 7:]
    torch.testing.assert_close(logits[1], again, atol=2e-5, rtol=0)


@pytest.mark.parametrize("inner", ["full", {"policy": "block_memory", "window": 40}], ids=str)
def test_what_inference_read_can_be_forgotten_outside_of_it(model: Transformer, inner: object) -> None:
    cache = start({"policy": "offloaded", "recent": 0, "inner": inner}, model, 1)
    with torch.inference_mode():
        model(text(1, 300), cache=cache)
    store = cache.layers[0].store  # type: ignore[attr-defined]
    archive = getattr(store, "archive", store)
    assert archive.count > 0
    del cache, store
    gc.collect()
    assert archive.count == 0


def test_named_as_they_are_described() -> None:
    options = {
        "policy": "offloaded",
        "to": "file",
        "inner": {"policy": "quantized", "bits": 4, "inner": {"policy": "block_memory", "window": 256}},
    }
    policy = make_policy(options)
    assert describe(policy) == options
    assert make_policy(describe(policy)) == policy
    assert describe(make_policy("quantized")) == {"policy": "quantized"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "quantized", "bits": 3}, "bits=3: quantized keeps numbers in 8 or 4 bits"),
        ({"policy": "quantized", "recent": -1}, "recent=-1"),
        ({"policy": "quantized", "inner": "fulll"}, "unknown cache policy 'fulll'"),
        ({"policy": "offloaded", "to": "moon"}, "to='moon': offloaded moves keys and values to host or file"),
        ({"policy": "offloaded", "to": "file", "folder": "/no/such/folder"}, "folder='/no/such/folder' is no folder"),
        ({"policy": "offloaded", "folder": "."}, "it needs to=file"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(options)


@pytest.mark.parametrize("policy", ["full", "sliding_window"])
def test_large_masks_are_never_made(model: Transformer, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in pieces give what they give at once, by the fused kernel and, where gradients may be wanted, without."""
    tokens_BT, chunks = text(2, 260), [150, 60, *[1] * 10, 40]
    expected = feed(model, start(policy, model, 2), tokens_BT, chunks)
    monkeypatch.setattr(full_layer, "MASKED", 0)
    monkeypatch.setattr(full_layer, "UNMASKED", 0)
    monkeypatch.setattr(store, "PIECE", 37)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            found = feed(model, start(policy, model, 2), tokens_BT, chunks)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_gradients_go_through_a_cache(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many scores there are: the fused kernel's logarithms have none, and it is left alone."""
    model, tokens_BT, found = copy.deepcopy(model).requires_grad_(True), text(1, 24), []
    for unmasked in (full_layer.UNMASKED, 0):
        monkeypatch.setattr(full_layer, "UNMASKED", unmasked)
        last = feed(model, start("full", model, 1), tokens_BT, [16, 8])[:, -1].sum()
        found.append(torch.autograd.grad(last, model.get_parameter("layers.0.attention.k.weight"))[0])
    torch.testing.assert_close(found[1], found[0], atol=0, rtol=0)


@pytest.mark.parametrize("stores", [CONTIGUOUS, Stores(bits=8, recent=0), Stores(bits=8, recent=40)], ids=str)
def test_a_store_keeps_any_slots_of_each_head_and_rounds_none_twice_that_do_not_move(stores: Stores) -> None:
    """Rows of different lengths; the second row isn't touched, and so are the first row's first 40 slots."""
    store, lengths = stores.tokens(2), [150, 70]
    key_BKTD, value_BKTD = torch.randn(2, 2, 2, 150, 8, generator=torch.Generator().manual_seed(0))
    store.append(key_BKTD, value_BKTD, Layout.rows(lengths))
    store.settle()
    before = [tuple(part.clone() for part in row) for row in store.rows()]
    picks_KN = torch.stack([torch.randperm(110)[:60].sort().values + 40 for _ in range(2)])
    slots_KN = torch.cat((torch.arange(40).expand(2, -1), picks_KN), dim=1)
    keep(store, [slots_KN, None])
    assert store.lengths == [100, 70]
    index_KND = slots_KN[..., None].expand(-1, -1, 8)
    for first, after, old in zip((32, 70), store.rows(), before, strict=True):
        for part_KSD, old_KSD in zip(after, old, strict=True):
            expected_KSD = old_KSD.gather(1, index_KND) if first == 32 else old_KSD
            torch.testing.assert_close(part_KSD[:, :first], expected_KSD[:, :first], atol=0, rtol=0)
            torch.testing.assert_close(part_KSD, expected_KSD, atol=0 if stores.bits is None else 0.02, rtol=0)
    # What is appended afterwards stands behind what stayed.
    store.append(key_BKTD[:, :, :3], value_BKTD[:, :, :3], Layout.rows([3, 3], [100, 70]))
    assert all(torch.equal(key_KSD[:, -3:], key_BKTD[row, :, :3]) for row, (key_KSD, _) in enumerate(store.rows()))


@pytest.mark.parametrize("model", ["grouped"], indirect=True)
@pytest.mark.parametrize(
    "inner",
    [HeavyHitters(30, 50), HeavyHitters(30, 50, "text"), SnapKV(90), PerHeadBudget(90)],
    ids=str,
)
def test_fewer_bits_change_answers_little(model: Transformer, inner: HeavyHitters) -> None:
    tokens_BT = torch.randint(97, (2, 300), generator=torch.Generator().manual_seed(1))
    chunks = tokens_BT.split([100, 100, *[1] * 100], dim=1)
    caches = [
        make_policy(policy).start(model.config, model.position, 2)
        for policy in (inner, {"policy": "quantized", "bits": 8, "recent": 16, "inner": inner})
    ]
    whole, rounded = (torch.cat([model(chunk, cache=cache) for chunk in chunks], dim=1) for cache in caches)
    error = (rounded - whole).abs().mean() / whole.std()
    assert 0 < error < 0.1
