"""What a cache will hold of a text between two forwards, in bytes, before a token of it is read.

A policy's own stores are filled with tensors that have shapes and no numbers (PyTorch's meta device): room that grows
by doubling, what a window drops and what an archive keeps in few bits are then what they will be. Queries that have yet
to vote and other small things are counted by the policies, whose `plan` this serves.

Letters: B rows, T tokens, N blocks, K kv heads, L tokens of a block, D head width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from handscroll.kvcache.full_layer import FullLayer
from handscroll.kvcache.places import Place
from handscroll.kvcache.stores import Stores
from handscroll.kvcache.tiered_store import TieredStore
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Bytes

META = torch.device("meta")
# A layer that drops tokens holds the most within so many times what it keeps.
TURNS = 6


@dataclass(frozen=True)
class Text:
    """`rows` texts of `tokens` tokens each, read `chunk` at a time into keys and values of `dtype`.

    `apart`: the device has a memory of its own, where archives do not wait.
    """

    tokens: int
    rows: int = 1
    dtype: torch.dtype = torch.float32
    chunk: int = 4096
    apart: bool = False

    def keys(self, heads: int, length: int, width: int) -> Tensor:
        """(B, K, T, D) without numbers."""
        return torch.empty(self.rows, heads, length, width, dtype=self.dtype, device=META)


def without_numbers(stores: Stores) -> Stores:
    """The same stores with all that they keep on the meta device."""
    return stores if stores.place is None else replace(stores, place=Place("device"))


def planned_layers(layers: Sequence[FullLayer], config: ModelConfig, text: Text, stores: Stores) -> Bytes:
    """The most that layers hold between two forwards, on the device and beside it; those alike are filled once.

    They were started with `without_numbers(stores)`.
    """
    kinds = {(type(layer), layer.window): layer for layer in layers}
    times = Counter((type(layer), layer.window) for layer in layers)
    held = [(_filled(layer, config, text, stores), times[kind]) for kind, layer in kinds.items()]
    return Bytes(sum(each.device * number for each, number in held), sum(each.host * number for each, number in held))


def planned_blocks(number: int, at_once: int, key_NKLD: Tensor, stores: Stores) -> int:
    """Bytes of an archive of so many blocks like this one, which arrive `at_once` together; room grows by a quarter."""
    room, held = grown(number, at_once), stores.blocks().blocks.encoding
    return room * sum(part.nbytes for part in held.encode(key_NKLD, key_NKLD))


def grown(number: int, at_once: int) -> int:
    """Places that an archive has once `number` were added: where they are too few, a quarter more are made."""
    room = 0
    for count in range(at_once, number + at_once, at_once):
        if min(count, number) > room:
            room = max(min(count, number), room + room // 4)
    return room


def _filled(layer: FullLayer, config: ModelConfig, text: Text, stores: Stores) -> Bytes:
    most = Bytes(0, 0)
    tokens = text.tokens if layer.keeps is None else min(text.tokens, TURNS * (layer.keeps + text.chunk))
    for first in range(0, tokens, text.chunk):
        length = min(text.chunk, tokens - first)
        key_BKTD = text.keys(config.num_kv_heads, length, config.head_width)
        layout = Layout.rows([length] * text.rows, [first] * text.rows)
        for span, piece in layer.steps(layout):
            layer.append(key_BKTD[:, :, span], key_BKTD[:, :, span], piece)
            layer.store.settle()
        held = _where(layer, stores)
        most = Bytes(max(most.device, held.device), max(most.host, held.host))
    return most


def _where(layer: FullLayer, stores: Stores) -> Bytes:
    """What the layer holds now, with its archive where it will be."""
    held = layer.bytes()
    if stores.place is None or stores.place.name == "device" or not isinstance(layer.store, TieredStore):
        return held
    near = layer.store.hot.bytes().device
    return Bytes(near, sum(held) - near)
