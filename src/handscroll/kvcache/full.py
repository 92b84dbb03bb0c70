"""`full`: remembers every token, the yardstick of all other policies. Memory and time per token grow with the text.

Layers that were trained with a sliding window of their own see no further, and keep no more; those whose attention sees
a text in another way keep what it needs (`attention_layers.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from handscroll.kvcache.attention_layers import attention_layers, planned_attention
from handscroll.kvcache.layered import LayeredCache, Origin, PerForward
from handscroll.kvcache.plan import Text, without_numbers
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.model.config import ModelConfig
from handscroll.model.memory import Bytes
from handscroll.model.position import Position


@dataclass(frozen=True)
class Full:
    """Every token that a layer can see, at its own position. Chunk-invariant: the caller's chunks change no answer.

    Where positions depend on the length, the layout's `totals` have to tell it for that to hold.
    """

    chunk_invariant = True

    def start(self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS) -> LayeredCache:
        shared = PerForward()
        layers = attention_layers(config, position, rows, stores, shared)
        return LayeredCache(layers, shared, Origin(self, stores, position))

    def plan(self, config: ModelConfig, text: Text, stores: Stores = CONTIGUOUS) -> Bytes:
        """The most that a cache holds of a text."""
        return planned_attention(config, text, without_numbers(stores), stores)


FULL = Full()
