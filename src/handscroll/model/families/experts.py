"""How a config.json says a mixture of experts, both ways, and files that hold all experts of a layer in one tensor.

Mixtral (arXiv 2401.04088) has experts in every layer, as wide as `intermediate_size`. Qwen2-MoE and Qwen3-MoE have a
width of their own, and layers without experts: those of `mlp_only_layers`, and all but every `decoder_sparse_step`-th.
`router_aux_loss_coef` is the weight of the balance loss. No family has a key for the z-loss or a capacity: they stand
under keys of Handscroll's own, which others leave alone, for they change training only.

A file has a tensor for each expert's matrix, as transformers writes it. On request transformers also writes those that
it has in memory, `gate_up_proj` (N, 2 F, E) and `down_proj` (N, E, F): these are read, and written back one by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from handscroll.model.families.values import checked
from handscroll.model.routing import ExpertOptions

# transformers 5 writes the first name for all of them, Qwen's own releases have the second.
COUNTS = ("num_local_experts", "num_experts")
TOP_K, RENORMALIZE = "num_experts_per_tok", "norm_topk_prob"
WIDTH, SHARED_WIDTH = "moe_intermediate_size", "shared_expert_intermediate_size"
SPARSE_STEP, DENSE_LAYERS = "decoder_sparse_step", "mlp_only_layers"
BALANCE, Z_LOSS, CAPACITY = "router_aux_loss_coef", "router_z_loss_coef", "expert_capacity_factor"
# What transformers takes where the key is missing.
DEFAULT_BALANCE = 0.001
FUSED = re.compile(r"(?P<experts>.*\.experts)\.(?P<kind>gate_up_proj|down_proj)")


def no_experts(config: Mapping[str, Any], num_layers: int) -> ExpertOptions | None:
    return None


def write_no_experts(config: dict[str, Any], experts: ExpertOptions | None) -> None:
    """Experts that can't be said are noticed by whoever reads this again."""


def read_mixtral(config: Mapping[str, Any], num_layers: int) -> ExpertOptions:
    """ValueError names the key that is missing or mistyped."""
    return ExpertOptions(**_sizes(config), width=_size(config, "intermediate_size"), **_training(config))


def write_mixtral(config: dict[str, Any], experts: ExpertOptions | None) -> None:
    """Mutates."""
    if experts is not None:
        _write_sizes(config, experts, COUNTS[0])


def read_qwen3(config: Mapping[str, Any], num_layers: int) -> ExpertOptions | None:
    """None where no layer has experts. ValueError names the key that is missing or mistyped."""
    step = checked(config.get(SPARSE_STEP, 1), "int", SPARSE_STEP)
    dense = config.get(DENSE_LAYERS) or []
    if not isinstance(dense, list) or not all(isinstance(layer, int) for layer in dense):
        raise ValueError(f"{DENSE_LAYERS}={dense!r} is not a list of layers")
    layers = tuple(layer for layer in range(num_layers) if layer in dense or (layer + 1) % step)
    if len(layers) == num_layers:
        return None
    return ExpertOptions(
        **_sizes(config),
        width=_size(config, WIDTH),
        renormalize=checked(config.get(RENORMALIZE, False), "bool", RENORMALIZE),
        dense_layers=layers,
        **_training(config),
    )


def read_qwen2(config: Mapping[str, Any], num_layers: int) -> ExpertOptions | None:
    """Qwen3's, and a shared expert with its gate."""
    experts = read_qwen3(config, num_layers)
    return experts and replace(experts, shared_width=_size(config, SHARED_WIDTH), shared_gate=True)


def write_qwen(config: dict[str, Any], experts: ExpertOptions | None) -> None:
    """Mutates."""
    if experts is None:
        return
    _write_sizes(config, experts, COUNTS[1])
    config |= {WIDTH: experts.width, RENORMALIZE: experts.renormalize}
    config |= {SPARSE_STEP: 1, DENSE_LAYERS: list(experts.dense_layers)}
    if experts.shared_width:
        config[SHARED_WIDTH] = experts.shared_width


def split_experts(tensors: Mapping[str, Tensor], gate: str, up: str, down: str) -> dict[str, Tensor]:
    """A matrix for each expert, under these names, where a file has one tensor for all of a layer's."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        fused = FUSED.fullmatch(name)
        if fused is None or tensor.dim() != 3:
            result[name] = tensor
            continue
        for number, matrix in enumerate(tensor.unbind()):
            if fused["kind"] == "down_proj":
                parts = {down: matrix}
            else:
                parts = dict(zip((gate, up), matrix.chunk(2), strict=True))
            result |= {f"{fused['experts']}.{number}.{part}.weight": each for part, each in parts.items()}
    return result


def _size(config: Mapping[str, Any], key: str) -> int:
    if config.get(key) is None:
        raise ValueError(f"{key} is missing: a config.json of a mixture of experts must give it")
    size: int = checked(config[key], "int", key)
    return size


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    count = COUNTS[0] if config.get(COUNTS[0]) is not None else COUNTS[1]
    return {"count": _size(config, count), "top_k": _size(config, TOP_K)}


def _training(config: Mapping[str, Any]) -> dict[str, Any]:
    capacity = config.get(CAPACITY)
    return {
        "balance_loss": checked(config.get(BALANCE, DEFAULT_BALANCE), "float", BALANCE),
        "router_z_loss": checked(config.get(Z_LOSS, 0.0), "float", Z_LOSS),
        "capacity_factor": None if capacity is None else checked(capacity, "float", CAPACITY),
    }


def _write_sizes(config: dict[str, Any], experts: ExpertOptions, count: str) -> None:
    """Under the key of `COUNTS` that is there, or else `count`; keys of our own only where they say something."""
    count = next((key for key in COUNTS if config.get(key) is not None), count)
    config |= {count: experts.count, TOP_K: experts.top_k, BALANCE: experts.balance_loss}
    for key, value, unsaid in ((Z_LOSS, experts.router_z_loss, 0.0), (CAPACITY, experts.capacity_factor, None)):
        if value != unsaid:
            config[key] = value
        else:
            config.pop(key, None)
