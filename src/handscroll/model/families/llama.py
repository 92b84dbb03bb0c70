"""Llama (Llama 2, arXiv 2307.09288): grouped-query attention, RoPE, RMSNorm, SwiGLU; biases only where asked for."""

from handscroll.model.families.family import Family
from handscroll.model.families.heads import SCORE

SIZES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "feedforward_width": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "tied_embeddings": "tie_word_embeddings",
}
DROPOUT = {"attention_dropout": "attention_dropout"}

MODULES = {
    "embedding": "model.embed_tokens",
    "layers.{}.attention_norm": "model.layers.{}.input_layernorm",
    "layers.{}.attention.q": "model.layers.{}.self_attn.q_proj",
    "layers.{}.attention.k": "model.layers.{}.self_attn.k_proj",
    "layers.{}.attention.v": "model.layers.{}.self_attn.v_proj",
    "layers.{}.attention.o": "model.layers.{}.self_attn.o_proj",
    "layers.{}.feedforward_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.feedforward.gate": "model.layers.{}.mlp.gate_proj",
    "layers.{}.feedforward.up": "model.layers.{}.mlp.up_proj",
    "layers.{}.feedforward.down": "model.layers.{}.mlp.down_proj",
    "norm": "model.norm",
    "head": "lm_head",
    **SCORE,
}

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    keys={
        **SIZES,
        **DROPOUT,
        "qkv_bias": "attention_bias",
        "output_bias": "attention_bias",
        "feedforward_bias": "mlp_bias",
    },
    defaults={
        "max_positions": 2048,
        "norm_eps": 1e-6,
        "tied_embeddings": False,
        "qkv_bias": False,
        "output_bias": False,
        "feedforward_bias": False,
        "attention_dropout": 0.0,
    },
    fixed={},
    required={"hidden_act": "silu"},
    modules=MODULES,
)
