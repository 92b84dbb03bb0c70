"""Qwen2 and Qwen2.5 (arXiv 2407.10671): Llama with biases on q, k and v and on nothing else."""

from handscroll.model.families.family import Family
from handscroll.model.families.llama import DROPOUT, MODULES, SIZES
from handscroll.model.families.windows import read_qwen, write_qwen

QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    keys={**SIZES, **DROPOUT},
    defaults={
        "num_kv_heads": 32,
        "max_positions": 32768,
        "norm_eps": 1e-6,
        "tied_embeddings": False,
        "attention_dropout": 0.0,
    },
    fixed={"qkv_bias": True, "output_bias": False, "feedforward_bias": False},
    required={"hidden_act": "silu"},
    modules=MODULES,
    read_windows=read_qwen,
    write_windows=write_qwen,
)
