"""Mistral (arXiv 2310.06825): Llama whose layers see a sliding window, in the first releases; without any bias."""

from handscroll.model.families.family import Family
from handscroll.model.families.llama import DROPOUT, MODULES, SIZES
from handscroll.model.families.windows import read_mistral, write_mistral

MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    keys={**SIZES, **DROPOUT},
    defaults={
        "num_kv_heads": 8,
        "max_positions": 131072,
        "norm_eps": 1e-6,
        "tied_embeddings": False,
        "attention_dropout": 0.0,
    },
    fixed={"qkv_bias": False, "output_bias": False, "feedforward_bias": False},
    required={"hidden_act": "silu"},
    modules=MODULES,
    read_windows=read_mistral,
    write_windows=write_mistral,
)
