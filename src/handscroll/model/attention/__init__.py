"""The attention slot: project, let the memory attend, project back. What is attended to is the memory's business.

A variant is a kind of `AttentionOptions`, a module `forward(x_BTE, memory, layout) -> (out_BTE, weights)`, and the
memory that the module has without a cache: what it attends to among the forward's own tokens.

To add one: write `attention/NAME.py` with these three and a line in both dicts below; where it can be decoded with a
cache, add its layer in `kvcache/attention_layers.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from handscroll.model.attention.grouped_query import GroupedQueryAttention
from handscroll.model.attention.linear import LinearAttentionOptions, LinearMemory
from handscroll.model.attention.low_rank import LowRankAttention, LowRankMemory, LowRankOptions
from handscroll.model.attention.pattern import SparseOptions
from handscroll.model.attention.pooled import PooledAttention, PooledMemory, PooledOptions
from handscroll.model.attention.sparse import SparseMemory
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import DirectMemory, LayerMemory
from handscroll.model.position import Position, of_layer
from handscroll.model.slots import AttentionOptions, GroupedQueryOptions


class Attention(NamedTuple):
    """`memory` makes what all layers attend to without a cache; None: one `DirectMemory` for each window."""

    module: Callable[[ModelConfig], nn.Module]
    memory: Callable[[ModelConfig, Position, Layout, float], LayerMemory] | None = None


ATTENTIONS: dict[type[AttentionOptions], Attention] = {
    GroupedQueryOptions: Attention(GroupedQueryAttention),
    SparseOptions: Attention(GroupedQueryAttention, SparseMemory),
    LowRankOptions: Attention(LowRankAttention, LowRankMemory),
    LinearAttentionOptions: Attention(GroupedQueryAttention, LinearMemory),
    PooledOptions: Attention(PooledAttention, PooledMemory),
}

ATTENTION_KINDS: dict[str, type[AttentionOptions]] = {
    "grouped_query": GroupedQueryOptions,
    "sparse": SparseOptions,
    "low_rank": LowRankOptions,
    "linear": LinearAttentionOptions,
    "pooled": PooledOptions,
}


def attention_kind(config: ModelConfig) -> str:
    """The name of a model's attention in recipes and folders."""
    return next(name for name, kind in ATTENTION_KINDS.items() if kind is type(config.attention))


def make_attention(config: ModelConfig) -> nn.Module:
    return ATTENTIONS[type(config.attention)].module(config)


def direct_memories(
    config: ModelConfig, position: Position, layout: Layout, dropout: float, kernel: str = "fused"
) -> list[LayerMemory]:
    """What each layer attends to without a cache; layers that see alike share one.

    `kernel`: what computes grouped-query attention, one of `KERNELS`.
    """
    memory = ATTENTIONS[type(config.attention)].memory
    if memory is not None:
        return [memory(config, position, layout, dropout)] * config.num_layers
    kinds = [(of_layer(position, layer), config.window_of(layer)) for layer in range(config.num_layers)]
    made = {
        (position, window): DirectMemory(position, layout, None, window, dropout, config.mask, kernel)
        for position, window in set(kinds)
    }
    return [made[kind] for kind in kinds]


__all__ = [
    "ATTENTIONS",
    "ATTENTION_KINDS",
    "Attention",
    "GroupedQueryAttention",
    "LinearAttentionOptions",
    "LowRankOptions",
    "PooledOptions",
    "SparseOptions",
    "attention_kind",
    "direct_memories",
    "make_attention",
]
