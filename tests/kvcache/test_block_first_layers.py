"""First layers of `block_memory` that archive nothing: the layers of other policies."""

import pytest
import torch

from handscroll.kvcache import AttentionSinks, BlockMemory, Full
from handscroll.kvcache.attention_sinks import SinksLayer
from handscroll.kvcache.block_layer import BlockLayer
from handscroll.kvcache.full_layer import FullLayer
from handscroll.kvcache.layered import LayeredCache
from handscroll.model import ModelConfig, Transformer

CONFIG = ModelConfig(97, 64, 4, 4, 2, 16, 96, 128, qkv_bias=True)


@pytest.fixture
def model() -> Transformer:
    model = Transformer(CONFIG, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    return model.requires_grad_(False)


def kinds(cache: LayeredCache) -> list[type]:
    return [type(layer) for layer in cache.layers]


def test_local_layers_come_first_then_dense_ones(model: Transformer) -> None:
    cache = BlockMemory(local_layers=2, dense_layers=1).start(CONFIG, model.position, 1)
    assert kinds(cache) == [SinksLayer, SinksLayer, FullLayer, BlockLayer]
    assert kinds(BlockMemory(dense_layers=1).start(CONFIG, model.position, 1))[:2] == [FullLayer, BlockLayer]
    assert kinds(cache.select([0, 0])) == kinds(cache)
    with pytest.raises(ValueError, match="local_layers=3 and dense_layers=1 leave block_memory none of the model's 4"):
        BlockMemory(local_layers=3, dense_layers=1).start(CONFIG, model.position, 1)


@pytest.mark.parametrize("chunks", [[500], [130, 1, 1, 368]])
def test_first_layers_read_what_those_of_their_own_policy_read(model: Transformer, chunks: list[int]) -> None:
    """A layer's output depends on layers before it only: up to where blocks are read, they are the same."""
    tokens_1T = torch.randint(97, (1, 500), generator=torch.Generator().manual_seed(4))
    # Sinks and blocks of 8, tiles and a local window of 16: without blocks the window has 4 x 8 tokens more.
    near = AttentionSinks(sinks=8, window=48, tile=16)
    for policy, alone in ((BlockMemory(local_layers=2), near), (BlockMemory(dense_layers=2), Full())):
        mixed, pure = (each.start(CONFIG, model.position, 1) for each in (policy, alone))
        for piece_1T in tokens_1T.split(chunks, dim=1):
            model.hidden(piece_1T, cache=mixed)
            model.hidden(piece_1T, cache=pure)
        for layer, other in zip(mixed.layers[:2], pure.layers[:2], strict=True):
            assert isinstance(layer, FullLayer) and isinstance(other, FullLayer)
            assert layer.store.key_BKSD is not None and other.store.key_BKSD is not None
            used = other.store.used
            torch.testing.assert_close(
                layer.store.key_BKSD[:, :, :used], other.store.key_BKSD[:, :, :used], atol=2e-5, rtol=0
            )


def test_all_layers_go_back_or_none(model: Transformer) -> None:
    tokens_1T = torch.randint(97, (1, 500), generator=torch.Generator().manual_seed(4))
    cache = BlockMemory(local_layers=1, dense_layers=1).start(CONFIG, model.position, 1)
    model.hidden(tokens_1T, cache=cache)
    with pytest.raises(ValueError, match="row 0 can't be truncated to 100 tokens"):
        cache.truncate([100])
    assert [layer.lengths for layer in cache.layers] == [(500,)] * 4
    cache.truncate([490])
    assert [layer.lengths for layer in cache.layers] == [(490,)] * 4
