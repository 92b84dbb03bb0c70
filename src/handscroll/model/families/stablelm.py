"""StableLM (arXiv 2402.17834): Llama with LayerNorm, and biases on q, k and v where asked for.

It is what a new model with LayerNorm is written as. Heads of another width than hidden size / heads are Handscroll's
own, under Llama's name of the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handscroll.model.config import RopeOptions
from handscroll.model.families.family import Family
from handscroll.model.families.llama import DROPOUT, MODULES, SIZES
from handscroll.model.families.rope import STYLES, read_rope

FACTOR, MISSING_FACTOR = "partial_rotary_factor", 0.25


def read_whole_rope(config: Mapping[str, Any], max_positions: int) -> RopeOptions:
    """As `read_rope`; a config.json that doesn't say how much of a head is turned means a quarter: ValueError."""
    if not any((config.get(style) or {}).get(FACTOR) for style in STYLES) and config.get(FACTOR) is None:
        raise ValueError(
            f"{FACTOR}={MISSING_FACTOR}, which is meant where it is missing, isn't supported yet: only 1.0"
        )
    return read_rope(config, max_positions)


STABLELM = Family(
    model_type="stablelm",
    architecture="StableLmForCausalLM",
    keys={**SIZES, **DROPOUT, "norm_eps": "layer_norm_eps", "qkv_bias": "use_qkv_bias"},
    defaults={
        "num_kv_heads": 32,
        "max_positions": 4096,
        "norm_eps": 1e-5,
        "tied_embeddings": False,
        "qkv_bias": False,
        "attention_dropout": 0.0,
    },
    fixed={"norm": "layer", "output_bias": False, "feedforward_bias": False},
    required={"hidden_act": "silu", "qk_layernorm": False, "use_parallel_residual": False, FACTOR: 1.0},
    modules=MODULES,
    read_position=read_whole_rope,
)
