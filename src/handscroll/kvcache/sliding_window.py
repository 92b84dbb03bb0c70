"""`sliding_window`: the last tokens only (Longformer, arXiv 2004.05150, section 3.1), and nothing of what came before.

Adds to `full`: a limit on how far back a query sees, and a store that drops what no query can see any more. Memory and
time per token are constant; so is the ignorance of everything older.
"""

from __future__ import annotations

from dataclasses import dataclass

from handscroll.kvcache.layered import LayeredCache, Origin, PerForward, refuse_unless_all_seen
from handscroll.kvcache.plan import Text, planned_layers, without_numbers
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.kvcache.window_layer import text_layers
from handscroll.model.config import ModelConfig
from handscroll.model.memory import Bytes
from handscroll.model.position import Position, make_position


@dataclass(frozen=True)
class SlidingWindow:
    """A query sees itself and the `window` - 1 tokens before it; None: as many as the model was trained on.

    In layers that were trained with a narrower window of their own, that one holds.
    """

    window: int | None = None

    chunk_invariant = True

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window}: a sliding window holds at least 1 token, the query's own")

    def start(self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS) -> LayeredCache:
        refuse_unless_all_seen(config, "sliding_window")
        shared = PerForward()
        layers = text_layers(config, position, rows, stores, shared, self.window or config.max_positions)
        return LayeredCache(layers, shared, Origin(self, stores, position))

    def plan(self, config: ModelConfig, text: Text, stores: Stores = CONTIGUOUS) -> Bytes:
        """The most that a cache holds of a text."""
        near = without_numbers(stores)
        layers = text_layers(
            config, make_position(config), text.rows, near, PerForward(), self.window or config.max_positions
        )
        return planned_layers(layers, config, text, stores)
