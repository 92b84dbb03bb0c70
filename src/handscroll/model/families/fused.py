"""Matrices that lie in one tensor of a file and are several here: q, k and v, or gate and up, one below the other.

Knows how to take them apart and how to put them together. Leaves to each family how the fused one is called.

Letters: G groups of rows in which the parts take turns, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from handscroll.model.config import ModelConfig

KINDS = ("weight", "bias")


def qkv_rows(config: ModelConfig) -> tuple[int, ...]:
    return tuple(config.head_width * heads for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads))


def gate_up_rows(config: ModelConfig) -> tuple[int, ...]:
    return (config.feedforward_width,) * 2


def once(config: ModelConfig) -> int:
    return 1


def by_head(config: ModelConfig) -> int:
    """q, k and v of the first head, then those of the second one: BLOOM's order."""
    return config.num_kv_heads


@dataclass(frozen=True)
class Fused:
    """`name` ends the fused module's name in a file, `parts` those that it becomes; `rows` has their heights."""

    name: str
    parts: tuple[str, ...]
    rows: Callable[[ModelConfig], tuple[int, ...]]
    groups: Callable[[ModelConfig], int] = once


QKV = tuple(f".self_attn.{name}_proj" for name in "qkv")
GATE_UP = Fused(".mlp.gate_up_proj", (".mlp.gate_proj", ".mlp.up_proj"), gate_up_rows)


def taking_apart(*fused: Fused) -> Callable[[Mapping[str, Tensor], ModelConfig], dict[str, Tensor]]:
    """What a family's `unpack` does. A tensor of another height than its parts together stays as it is."""

    def unpack(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            found = _named(name, ((each, each.name) for each in fused))
            if found is None or len(tensor) != sum(found[0].rows(config)):
                result[name] = tensor
                continue
            each, module, kind = found
            groups = each.groups(config)
            rows = [rows // groups for rows in each.rows(config)]
            pieces = _grouped(tensor, groups).split_with_sizes(rows, dim=1)
            result |= {
                f"{module}{part}.{kind}": piece.flatten(0, 1) for part, piece in zip(each.parts, pieces, strict=True)
            }
        return result

    return unpack


def putting_together(*fused: Fused) -> Callable[[Mapping[str, Tensor], ModelConfig], dict[str, Tensor]]:
    """What a family's `pack` does, the inverse."""

    def pack(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            found = _named(name, ((each, part) for each in fused for part in each.parts))
            if found is None:
                result[name] = tensor
                continue
            each, module, kind = found
            pieces = [_grouped(tensors[f"{module}{part}.{kind}"], each.groups(config)) for part in each.parts]
            # The first part brings the others along.
            result.setdefault(f"{module}{each.name}.{kind}", torch.cat(pieces, dim=1).flatten(0, 1))
        return result

    return pack


def _grouped(tensor: Tensor, groups: int) -> Tensor:
    """(R, ...) -> (G, R / G, ...)."""
    return tensor.reshape(groups, -1, *tensor.shape[1:])


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Names as a whole model's file has them, of a file that may hold the model without its head."""
    return {name if name.startswith((prefix, "lm_head.")) else prefix + name: each for name, each in tensors.items()}


def _named(name: str, endings: Iterable[tuple[Fused, str]]) -> tuple[Fused, str, str] | None:
    """What a tensor's name ends with, and what is before and after it: "model.layers.0" and "weight"."""
    for each, ending in endings:
        for kind in KINDS:
            if name.endswith(f"{ending}.{kind}"):
                return each, name.removesuffix(f"{ending}.{kind}"), kind
    return None
