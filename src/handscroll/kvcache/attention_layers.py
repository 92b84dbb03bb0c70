"""What a model's own way of attending remembers of a text, all that it can see: the layers of the policy `full`.

Softmax attention to all, or in a window, keeps keys and values of what it sees; sparse attention keeps them all, linear
attention a state, pooled attention its window and what it pooled. What was trained decides, not a policy; other
policies choose among keys that all can be seen, and refuse the rest (`refuse_unless_all_seen`).
"""

from __future__ import annotations

from collections.abc import Sequence

from handscroll.kvcache.layered import LayerCache, PerForward
from handscroll.kvcache.linear_layer import LinearLayer
from handscroll.kvcache.plan import Text, planned_layers
from handscroll.kvcache.pooled_layer import PooledLayer
from handscroll.kvcache.sparse_layer import SparseLayer
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.kvcache.window_layer import text_layers
from handscroll.model.attention import (
    LinearAttentionOptions,
    LowRankOptions,
    PooledOptions,
    SparseOptions,
    attention_kind,
)
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Bytes
from handscroll.model.position import Position, make_position


def attention_layers(
    config: ModelConfig, position: Position, rows: int, stores: Stores, shared: PerForward
) -> Sequence[LayerCache]:
    """For every layer of a model one that keeps what this layer can see. ValueError where nothing can be kept so."""
    options, number = config.attention, range(config.num_layers)
    if isinstance(options, SparseOptions):
        return [SparseLayer(position, stores.tokens(rows), shared, options) for _ in number]
    if isinstance(options, LowRankOptions):
        raise ValueError("low-rank attention sees a text as a whole: no cache can continue one; read without a cache")
    if isinstance(options, LinearAttentionOptions | PooledOptions) and stores != CONTIGUOUS:
        raise ValueError(
            f"attention={attention_kind(config)}: what this model keeps is neither quantized nor offloaded; use full"
        )
    if isinstance(options, LinearAttentionOptions) and position.depends_on_length:
        raise ValueError(
            "linear attention has summed its keys up, but this model's positions turn them anew as a text grows "
            "(dynamic NTK, LongRoPE): let the model read without a cache, or stretch it by yarn or ntk"
        )
    if isinstance(options, LinearAttentionOptions):
        return [LinearLayer(position, rows, shared) for _ in number]
    if isinstance(options, PooledOptions):
        return [PooledLayer(position, rows, shared, options) for _ in number]
    return text_layers(config, position, rows, stores, shared)


def planned_attention(config: ModelConfig, text: Text, near: Stores, stores: Stores) -> Bytes:
    """The most that these layers hold of a text; `near` are `stores` without numbers."""
    options, shared, position = config.attention, PerForward(), make_position(config)
    if isinstance(options, LinearAttentionOptions):
        products = config.num_kv_heads * config.head_width * (config.head_width + 1)
        return Bytes(4 * text.rows * config.num_layers * products, 0)
    if isinstance(options, PooledOptions):
        return Bytes(config.num_layers * _filled(PooledLayer(position, text.rows, shared, options), config, text), 0)
    if isinstance(options, SparseOptions):
        layer = SparseLayer(position, near.tokens(text.rows), shared, options)
        return planned_layers([layer] * config.num_layers, config, text, stores)
    return planned_layers(text_layers(config, position, text.rows, near, shared), config, text, stores)


def _filled(layer: PooledLayer, config: ModelConfig, text: Text) -> int:
    most, stride = 0, layer.options.stride
    for first in range(0, text.tokens, text.chunk):
        length = min(text.chunk, text.tokens - first)
        key_BKTD = text.keys(config.num_kv_heads, length, config.head_width)
        layer.remember(key_BKTD, key_BKTD, Layout.rows([length] * text.rows, [first] * text.rows))
        new, have = (first + length) // stride - first // stride, first // stride
        if new:
            pooled_BKND = text.keys(config.num_kv_heads, new, config.head_width)
            layer.pooled.append(pooled_BKND, pooled_BKND, Layout.rows([new] * text.rows, [have] * text.rows))
        most = max(most, layer.bytes().device)
    return most
