"""What every cache shares: one layer memory per transformer layer, and the default way in which a layer attends.

Letters: B batch, T tokens, S keys, H heads, K kv heads, D head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from handscroll.kernels.attention import attention, attention_with_weights
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position

Value = TypeVar("Value")


class PerForward:
    """Values that all layers of one forward share (masks, rotations): the first layer computes, the others reuse."""

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._values: dict[str, object] = {}

    def get(self, layout: Layout, name: str, compute: Callable[[], Value]) -> Value:
        if self._layout is not layout:
            self._layout, self._values = layout, {}
        if name not in self._values:
            self._values[name] = compute()
        return self._values[name]  # type: ignore[return-value]


class LayerCache(ABC):
    """One layer's memory. A policy implements these; `attend` and `append` mutate, `view` and `bytes` do not."""

    # Whether fewer queries than keys may come: not where what is remembered depends on who asks.
    some_may_ask = False

    @property
    @abstractmethod
    def lengths(self) -> tuple[int, ...]:
        """Tokens read, per row."""

    @abstractmethod
    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended: ...

    @abstractmethod
    def bytes(self) -> Bytes: ...

    @abstractmethod
    def truncate(self, lengths: Sequence[int]) -> None: ...

    @abstractmethod
    def select(self, rows: Sequence[int], shared: PerForward) -> LayerCache: ...


class LayeredCache:
    """The `Cache` of model/memory.py over one `LayerCache` per layer."""

    def __init__(self, layers: Sequence[LayerCache], shared: PerForward):
        self.layers = list(layers)
        self._shared = shared

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.layers[0].lengths

    def bytes(self) -> Bytes:
        held = [layer.bytes() for layer in self.layers]
        return Bytes(sum(layer.device for layer in held), sum(layer.host for layer in held))

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forgets what each row read past `lengths[row]` (mutates); all layers or, on a ValueError, none."""
        if len(lengths) != len(self.lengths):
            raise ValueError(f"truncate got {len(lengths)} lengths for a cache of {len(self.lengths)} rows")
        for row, (length, held) in enumerate(zip(lengths, self.lengths, strict=True)):
            if not 0 <= length <= held:
                raise ValueError(f"row {row} can't be truncated to {length} tokens: it holds {held}")
        for layer in self.layers:
            layer.truncate(lengths)

    def select(self, rows: Sequence[int]) -> LayeredCache:
        """A new cache of these rows, reordered, dropped or repeated."""
        known = len(self.lengths)
        for row in rows:
            if not 0 <= row < known:
                raise ValueError(f"row {row} does not exist: the cache has rows 0 to {known - 1}")
        shared = PerForward()
        return LayeredCache([layer.select(rows, shared) for layer in self.layers], shared)


def tile_of(trained: int) -> int:
    """Tokens of a tile, the absolute stretches of a text that windows and virtual positions depend on: 64 or fewer."""
    return max(1, min(64, trained // 8))


def refuse_unless_turned_once(position: Position, policy: str) -> None:
    """ValueError where a key that was turned when it came doesn't say by itself where it stands in the text."""
    if position.depends_on_length or position.adds_bias:
        raise ValueError(
            f"{policy} keeps keys as their place in the text turned them, but this model's positions turn anew as a "
            "text grows (dynamic NTK, LongRoPE) or weigh distances (ALiBi): use full, attention_sinks, or "
            "heavy_hitters with positions=cache"
        )


def attend(
    query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, mask: Tensor | None, causal: bool, weights: bool
) -> Attended:
    """The fast kernel, or the slow one where somebody wants the weights."""
    if weights:
        return Attended(*attention_with_weights(query_BHTD, key_BKSD, value_BKSD, mask, causal))
    return Attended(attention(query_BHTD, key_BKSD, value_BKSD, mask, causal), None)
