"""Blocks of keys and values, addressed by number: how they are encoded, at a place that `places.py` knows.

An encoding turns keys and values (N, K, L, D) into tensors that begin with (N, K), and back: whole, or in few bits as
KIVI does it (arXiv 2402.02750): keys per channel, as some channels are large in all tokens, values per token.

Letters: N blocks, K kv heads, L tokens of a block, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from handscroll.kernels.quantize import Codes, dequantize, quantize
from handscroll.kvcache.places import Place, Room
from handscroll.kvcache.state import DTYPES, Pieces, State

# Tokens whose keys share the scale of a channel; channels of a token's value that share one.
GROUP = 32


@dataclass(frozen=True)
class Plain:
    """As they are."""

    def encode(self, key_NKLD: Tensor, value_NKLD: Tensor) -> tuple[Tensor, ...]:
        return key_NKLD, value_NKLD

    def decode(self, parts: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        key_NKLD, value_NKLD = parts
        return key_NKLD, value_NKLD


@dataclass(frozen=True)
class FewBits:
    """Keys in groups of `GROUP` tokens per channel, values in groups of `GROUP` channels per token.

    Where that doesn't divide a block or a head, the whole of it is one group.
    """

    bits: int

    def encode(self, key_NKLD: Tensor, value_NKLD: Tensor) -> tuple[Tensor, ...]:
        key = quantize(_in_groups(key_NKLD, 2), self.bits, -2)
        value = quantize(_in_groups(value_NKLD, 3), self.bits, -1)
        return *key, *value

    def decode(self, parts: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        key, value = (dequantize(Codes(*codes), self.bits, dtype) for codes in (parts[:3], parts[3:]))
        return key.flatten(-3, -2), value.flatten(-2)


def _in_groups(x_NKLD: Tensor, dim: int) -> Tensor:
    """`dim` (2 or 3) as two dimensions: groups, and what is in them."""
    size = x_NKLD.shape[dim]
    group = GROUP if size % GROUP == 0 else size
    return x_NKLD.reshape(*x_NKLD.shape[:dim], size // group, group, *x_NKLD.shape[dim + 1 :])


Encoding = Plain | FewBits


class Blocks:
    """Blocks by number, from 0 on. Who owns which number is the caller's business."""

    def __init__(self, encoding: Encoding, place: Place):
        self.encoding, self.place = encoding, place
        self.rooms: list[Room] = []
        # Of keys and values as they are read: what they had before they were encoded.
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def encode(self, key_NKLD: Tensor, value_NKLD: Tensor) -> tuple[Tensor, ...]:
        """Blocks as `write` takes them."""
        if not self.rooms:
            self.dtype, self.device = key_NKLD.dtype, key_NKLD.device
        return self.encoding.encode(key_NKLD, value_NKLD)

    def write(self, numbers_N: Tensor, parts: Sequence[Tensor]) -> None:
        """Writes encoded blocks to their numbers (mutates); there must be room (`reserve`)."""
        for room, part in zip(self.rooms, parts, strict=True):
            room.write(numbers_N, part)

    def reserve(self, number: int, parts: Sequence[Tensor]) -> None:
        """Makes room for `number` blocks like these (mutates); where it is too little, for a quarter more than now."""
        if not self.rooms:
            self.rooms = [self.place.room(part.shape[1:], part.dtype, self.device) for part in parts]
        held = len(self.rooms[0])
        if number > held:
            for room in self.rooms:
                room.grow(max(number, held + held // 4))

    def read(self, index: slice | tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values (..., L, D) on `device`; `index` picks of the dimensions (N, K)."""
        return self.encoding.decode([room.read(index).to(device) for room in self.rooms], self.dtype)

    def encoded(self, numbers_N: Tensor) -> list[Pieces]:
        """These blocks as they are kept; all of them without a copy where they stand side by side."""
        first, last = int(numbers_N[0]), int(numbers_N[-1]) + 1
        if last - first == len(numbers_N):
            return [Pieces(room.pieces(first, last)) for room in self.rooms]
        return [Pieces([room.read((numbers_N,))]) for room in self.rooms]

    def state(self, numbers_N: Tensor) -> State:
        """These blocks, ascending, to be saved."""
        return {"parts": self.encoded(numbers_N) if len(numbers_N) else [], "dtype": str(self.dtype)}

    def restore(self, state: State, device: torch.device) -> None:
        """Empty before, holds what was saved (mutates), from number 0 on."""
        self.dtype, self.device = DTYPES[state["dtype"]], device
        self.rooms = [self.place.room(part.shape[1:], part.dtype, device) for part in state["parts"]]
        for room, part in zip(self.rooms, state["parts"], strict=True):
            room.begin(part)

    def nbytes(self) -> int:
        return sum(room.nbytes() for room in self.rooms)

    @property
    def on_device(self) -> bool:
        return self.place.name == "device"
