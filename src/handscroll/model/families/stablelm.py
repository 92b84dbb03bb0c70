"""StableLM (arXiv 2402.17834): Llama with LayerNorm, a part of each head turned, biases on q, k and v where asked for.

It is what a new model with LayerNorm is written as. Heads of another width than hidden size / heads are Handscroll's
own, under Llama's name of the key.
"""

from __future__ import annotations

from functools import partial

from handscroll.model.families.family import Family
from handscroll.model.families.llama import DROPOUT, MODULES, SIZES
from handscroll.model.families.rope import read_rope, write_rope

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
    required={"hidden_act": "silu", "qk_layernorm": False, "use_parallel_residual": False},
    modules=MODULES,
    read_position=partial(read_rope, missing_share=0.25),
    write_position=partial(write_rope, missing_share=0.25),
)
