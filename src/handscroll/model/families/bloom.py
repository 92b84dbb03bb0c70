"""BLOOM (arXiv 2211.05100): ALiBi, LayerNorm, after the embedding too, GELU's tanh estimate, biases everywhere.

q, k and v lie in one matrix, head by head. The published files leave `transformer.` out of the tensors' names and have
older keys; what is written has the prefix, which every reader takes. No key but `seq_length`, which few files have,
says how long the texts of training were: 2,048 tokens where it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from handscroll.model.config import ModelConfig
from handscroll.model.families.family import MULTI_HEAD, Family, four_widths, reads_only, writes_only
from handscroll.model.families.fused import Fused, by_head, putting_together, qkv_rows, taking_apart, with_prefix
from handscroll.model.position import AlibiOptions
from handscroll.model.slots import EmbeddingOptions

LAYER = "transformer.h.{}"
FUSED = Fused(".query_key_value", (".query", ".key", ".value"), qkv_rows, by_head)


def unpack(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    return taking_apart(FUSED)(with_prefix(tensors, "transformer."), config)


BLOOM = Family(
    model_type="bloom",
    architecture="BloomForCausalLM",
    keys={
        "vocab_size": "vocab_size",
        "width": "hidden_size",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "max_positions": "seq_length",
        "norm_eps": "layer_norm_epsilon",
        "tied_embeddings": "tie_word_embeddings",
        "attention_dropout": "attention_dropout",
        "residual_dropout": "hidden_dropout",
    },
    older_keys={"hidden_size": "n_embed", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"},
    defaults={
        "vocab_size": 250880,
        "max_positions": 2048,
        "norm_eps": 1e-5,
        "tied_embeddings": True,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
    },
    derived={**MULTI_HEAD, "feedforward_width": four_widths},
    fixed={
        "norm": "layer",
        "embedding": EmbeddingOptions(norm=True),
        "feedforward": "gelu_tanh",
        "qkv_bias": True,
        "output_bias": True,
        "feedforward_bias": True,
    },
    required={"apply_residual_connection_post_layernorm": False},
    modules={
        "embedding": "transformer.word_embeddings",
        "embedding.norm": "transformer.word_embeddings_layernorm",
        "layers.{}.attention_norm": f"{LAYER}.input_layernorm",
        "layers.{}.attention.q": f"{LAYER}.self_attention.query",
        "layers.{}.attention.k": f"{LAYER}.self_attention.key",
        "layers.{}.attention.v": f"{LAYER}.self_attention.value",
        "layers.{}.attention.o": f"{LAYER}.self_attention.dense",
        "layers.{}.feedforward_norm": f"{LAYER}.post_attention_layernorm",
        "layers.{}.feedforward.up": f"{LAYER}.mlp.dense_h_to_4h",
        "layers.{}.feedforward.down": f"{LAYER}.mlp.dense_4h_to_h",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    read_position=reads_only(AlibiOptions()),
    write_position=writes_only(AlibiOptions()),
    unpack=unpack,
    pack=putting_together(FUSED),
)
