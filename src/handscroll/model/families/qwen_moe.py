"""Qwen2-MoE (arXiv 2407.10671) and Qwen3-MoE (arXiv 2505.09388): Qwen2 and Qwen3 with experts in some or all layers.

Qwen2-MoE has a shared expert, gated by the token. Where Qwen3-MoE has a window, all layers have it. Qwen2-MoE's is said
of every other layer, which isn't supported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from handscroll.model.config import ModelConfig
from handscroll.model.families.experts import read_qwen2, read_qwen3, split_experts, write_qwen
from handscroll.model.families.family import Family
from handscroll.model.families.llama import DROPOUT, MODULES, SIZES
from handscroll.model.families.qwen3 import QWEN3
from handscroll.model.families.values import checked
from handscroll.model.families.windows import DEFAULT_WINDOW, SWITCH, WINDOW, Windows, read_mistral, write_mistral

EXPERTS = {
    "layers.{}.feedforward.router": "model.layers.{}.mlp.gate",
    "layers.{}.feedforward.experts.{}.gate": "model.layers.{}.mlp.experts.{}.gate_proj",
    "layers.{}.feedforward.experts.{}.up": "model.layers.{}.mlp.experts.{}.up_proj",
    "layers.{}.feedforward.experts.{}.down": "model.layers.{}.mlp.experts.{}.down_proj",
}
SHARED = {
    "layers.{}.feedforward.shared.gate": "model.layers.{}.mlp.shared_expert.gate_proj",
    "layers.{}.feedforward.shared.up": "model.layers.{}.mlp.shared_expert.up_proj",
    "layers.{}.feedforward.shared.down": "model.layers.{}.mlp.shared_expert.down_proj",
    "layers.{}.feedforward.shared_gate": "model.layers.{}.mlp.shared_expert_gate",
}


def read_window(config: Mapping[str, Any], num_layers: int) -> Windows:
    switch = config.get(SWITCH)
    is_on = switch is not None and checked(switch, "bool", SWITCH)
    return read_mistral({**config, WINDOW: config.get(WINDOW, DEFAULT_WINDOW) if is_on else None}, num_layers)


def write_window(config: dict[str, Any], windows: Windows, num_layers: int) -> None:
    """Mutates."""
    config[SWITCH] = windows.sliding_window is not None
    write_mistral(config, windows, num_layers)


def unpack(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    return split_experts(tensors, gate="gate_proj", up="up_proj", down="down_proj")


QWEN3_MOE = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    keys=QWEN3.keys,
    defaults={name: value for name, value in QWEN3.defaults.items() if name != "head_width"} | {"num_kv_heads": 4},
    fixed=QWEN3.fixed,
    required=QWEN3.required,
    modules={**QWEN3.modules, **EXPERTS},
    read_windows=read_window,
    write_windows=write_window,
    read_experts=read_qwen3,
    write_experts=write_qwen,
    unpack=unpack,
)
QWEN2_MOE = Family(
    model_type="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    keys={**SIZES, **DROPOUT, "qkv_bias": "qkv_bias"},
    defaults={
        "num_kv_heads": 16,
        "max_positions": 32768,
        "norm_eps": 1e-6,
        "tied_embeddings": False,
        "attention_dropout": 0.0,
        "qkv_bias": True,
    },
    fixed={"output_bias": False, "feedforward_bias": False},
    required={"hidden_act": "silu", SWITCH: False},
    modules={**MODULES, **EXPERTS, **SHARED},
    read_experts=read_qwen2,
    write_experts=write_qwen,
    unpack=unpack,
)
