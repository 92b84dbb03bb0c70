"""What every cache shares: one layer memory per transformer layer, and the default way in which a layer attends.

Letters: B batch, T tokens, S keys, H heads, K kv heads, D head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from handscroll.kernels.attention import attention, attention_with_weights
from handscroll.kvcache.state import State
from handscroll.kvcache.stores import Stores
from handscroll.model.attention import attention_kind
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position, Relative, RelativeLayer
from handscroll.model.slots import GroupedQueryOptions

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
    # Whether a token may see those after it in its forward: not where what is kept goes by what came before.
    reads_prefix = False

    # The position that tokens are compared by.
    position: Position

    @property
    def keeps_positions(self) -> bool:
        """Whether tokens stay at the layout's own positions, in all of their axes."""
        return False

    @property
    def is_of_one_layer(self) -> bool:
        """Whether the position is one layer's, where each has weights of its own."""
        return isinstance(getattr(self, "position", None), RelativeLayer)

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
    def select(self, rows: Sequence[int], shared: PerForward) -> Self: ...

    @abstractmethod
    def join(self, other: Self, shared: PerForward) -> Self:
        """A layer of these rows and, behind them, the other's, which was started alike."""

    @abstractmethod
    def state(self) -> State:
        """All that `restore` needs to go on as this layer would: tensors and plain values, by name."""

    @abstractmethod
    def restore(self, state: State, device: torch.device) -> None:
        """Just started with as many rows, goes on as the saved layer would (mutates).

        Tensors of the state are on the host, mapped from the file: only what is read from `device` is moved there.
        """


class Origin(NamedTuple):
    """What a cache was started with; caches of equal origin can be joined. A model has one position of its own."""

    policy: object
    stores: Stores
    position: Position


class LayeredCache:
    """The `Cache` of model/memory.py over one `LayerCache` per layer."""

    def __init__(self, layers: Sequence[LayerCache], shared: PerForward, origin: Origin):
        if isinstance(origin.position, Relative) and not all(layer.is_of_one_layer for layer in layers):
            raise ValueError(
                "this model's positions are relative, with weights in each layer that block_memory leaves out: use "
                "full, sliding_window, segment_recurrence, attention_sinks, heavy_hitters, snapkv or per_head_budget"
            )
        self.layers = list(layers)
        self._shared = shared
        self.origin = origin

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

    def select(self, rows: Sequence[int]) -> Self:
        """A new cache of these rows, reordered, dropped or repeated."""
        known = len(self.lengths)
        for row in rows:
            if not 0 <= row < known:
                raise ValueError(f"row {row} does not exist: the cache has rows 0 to {known - 1}")
        shared = PerForward()
        return type(self)([layer.select(rows, shared) for layer in self.layers], shared, self.origin)

    def join(self, other: LayeredCache) -> Self:
        """A new cache of these rows and, behind them, the other's: a batch takes in a sequence that was read apart.

        Archived blocks of the other are copied to this one's archive. ValueError where the two were started otherwise.
        """
        for name, ours, theirs in zip(Origin._fields, self.origin, other.origin, strict=True):
            if ours != theirs:
                if name == "position":
                    raise ValueError("caches of two models can't be joined: let one model read both texts")
                raise ValueError(f"a cache of {theirs} can't be joined to one of {ours}: start both alike")
        shared = PerForward()
        pairs = zip(self.layers, other.layers, strict=True)
        return type(self)([layer.join(theirs, shared) for layer, theirs in pairs], shared, self.origin)

    def state(self) -> State:
        """What `restore` needs to go on as this cache would."""
        return {"layers": [layer.state() for layer in self.layers]}

    def restore(self, state: State, device: torch.device) -> None:
        """Just started with as many rows, goes on as the saved cache would (mutates)."""
        for layer, saved in zip(self.layers, state["layers"], strict=True):
            layer.restore(saved, device)


def tile_of(trained: int) -> int:
    """Tokens of a tile, the absolute stretches of a text that windows and virtual positions depend on: 64 or fewer."""
    return max(1, min(64, trained // 8))


def refuse_unless_all_seen(config: ModelConfig, policy: str) -> None:
    """ValueError where a model's attention chooses what a token sees: a policy would choose otherwise."""
    if not isinstance(config.attention, GroupedQueryOptions):
        raise ValueError(
            f"{policy} chooses keys for softmax attention to all of a text, but this model was trained with "
            f"attention={attention_kind(config)}, which decides by itself what a token sees: use full "
            "(--cache full)"
        )


def attend(
    query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, mask: Tensor | None, causal: bool, weights: bool
) -> Attended:
    """The fast kernel, or the slow one where somebody wants the weights."""
    if weights:
        return Attended(*attention_with_weights(query_BHTD, key_BKSD, value_BKSD, mask, causal))
    return Attended(attention(query_BHTD, key_BKSD, value_BKSD, mask, causal), None)
