"""Qwen3 (arXiv 2505.09388): Qwen2 with queries and keys normalized head by head, and without biases by default."""

from handscroll.model.families.family import Family
from handscroll.model.families.llama import DROPOUT, MODULES, SIZES
from handscroll.model.families.windows import read_qwen, write_qwen

QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    keys={**SIZES, **DROPOUT, "qkv_bias": "attention_bias", "output_bias": "attention_bias"},
    defaults={
        "num_kv_heads": 32,
        "head_width": 128,
        "max_positions": 32768,
        "norm_eps": 1e-6,
        "tied_embeddings": False,
        "qkv_bias": False,
        "output_bias": False,
        "attention_dropout": 0.0,
    },
    fixed={"qk_norm": True, "feedforward_bias": False},
    required={"hidden_act": "silu"},
    modules={
        **MODULES,
        "layers.{}.attention.q_norm": "model.layers.{}.self_attn.q_norm",
        "layers.{}.attention.k_norm": "model.layers.{}.self_attn.k_norm",
    },
    read_windows=read_qwen,
    write_windows=write_qwen,
)
