"""Mixtral (arXiv 2401.04088): Mistral with experts for a feed-forward in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from handscroll.model.config import ModelConfig
from handscroll.model.families.experts import read_mixtral, split_experts, write_mixtral
from handscroll.model.families.family import Family
from handscroll.model.families.llama import DROPOUT, MODULES, SIZES
from handscroll.model.families.windows import WINDOW, Windows, read_mistral, write_mistral

# The name within a layer in files, and in the memory of transformers 5.
BLOCK, IN_MEMORY = ".block_sparse_moe.", ".mlp."


def read_window(config: Mapping[str, Any], num_layers: int) -> Windows:
    """As Mistral says it, but that no word of it means none."""
    return read_mistral({WINDOW: None, **config}, num_layers)


def unpack(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    named = {name.replace(IN_MEMORY, BLOCK): tensor for name, tensor in tensors.items()}
    return split_experts(named, gate="w1", up="w3", down="w2")


MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    keys={**SIZES, **DROPOUT},
    defaults={
        "num_kv_heads": 8,
        "max_positions": 131072,
        "norm_eps": 1e-5,
        "tied_embeddings": False,
        "attention_dropout": 0.0,
    },
    fixed={"qkv_bias": False, "output_bias": False, "feedforward_bias": False},
    required={"hidden_act": "silu"},
    modules={
        **{name: place for name, place in MODULES.items() if ".feedforward." not in name},
        "layers.{}.feedforward.router": "model.layers.{}.block_sparse_moe.gate",
        "layers.{}.feedforward.experts.{}.gate": "model.layers.{}.block_sparse_moe.experts.{}.w1",
        "layers.{}.feedforward.experts.{}.up": "model.layers.{}.block_sparse_moe.experts.{}.w3",
        "layers.{}.feedforward.experts.{}.down": "model.layers.{}.block_sparse_moe.experts.{}.w2",
    },
    read_windows=read_window,
    write_windows=write_mistral,
    read_experts=read_mixtral,
    write_experts=write_mixtral,
    unpack=unpack,
)
