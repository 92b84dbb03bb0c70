"""GLM-4 (arXiv 2406.12793) as transformers writes it: adjacent features are paired, half of a head is turned.

`glm` is what a new model with adjacent pairs is written as: Llama but for these positions, with gate and up in one
matrix. `glm4`, its successor, normalizes what attention and feed-forward give, too, before it is added.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from handscroll.model.families.family import Family
from handscroll.model.families.fused import GATE_UP, putting_together, taking_apart
from handscroll.model.families.llama import DROPOUT, MODULES, SIZES
from handscroll.model.families.rope import read_rope, write_rope

ROTARY: Any = {"pairing": "adjacent", "missing_share": 0.5}

GLM = Family(
    model_type="glm",
    architecture="GlmForCausalLM",
    keys={**SIZES, **DROPOUT, "qkv_bias": "attention_bias"},
    defaults={
        "num_kv_heads": 2,
        "head_width": 128,
        "max_positions": 131072,
        "norm_eps": 1.5625e-07,
        "tied_embeddings": False,
        "qkv_bias": True,
        "attention_dropout": 0.0,
    },
    fixed={"output_bias": False, "feedforward_bias": False},
    required={"hidden_act": "silu"},
    modules=MODULES,
    read_position=partial(read_rope, **ROTARY),
    write_position=partial(write_rope, **ROTARY),
    unpack=taking_apart(GATE_UP),
    pack=putting_together(GATE_UP),
)
GLM4 = replace(
    GLM,
    model_type="glm4",
    architecture="Glm4ForCausalLM",
    fixed={**GLM.fixed, "norm_placement": "sandwich"},
    modules={
        **MODULES,
        "layers.{}.attention_out_norm": "model.layers.{}.post_self_attn_layernorm",
        "layers.{}.feedforward_out_norm": "model.layers.{}.post_mlp_layernorm",
    },
)
