"""GPT-2 (Radford et al. 2019): learnt positions, LayerNorm, GELU's tanh estimate, biases everywhere.

Its matrices lie input by input in a file, and q, k and v in one. The first published files leave `transformer.` out of
the tensors' names; what is written has it, which every reader takes.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from handscroll.model.config import ModelConfig
from handscroll.model.families.family import MULTI_HEAD, Family, four_widths, reads_only, writes_only
from handscroll.model.families.fused import Fused, putting_together, qkv_rows, taking_apart, with_prefix
from handscroll.model.slots import LearnedOptions

FUSED = Fused(".attn.c_attn", (".attn.q", ".attn.k", ".attn.v"), qkv_rows)
BY_INPUT = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
PREFIX = "transformer."


def unpack(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    return taking_apart(FUSED)(_turned(with_prefix(tensors, PREFIX)), config)


def pack(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    return _turned(putting_together(FUSED)(tensors, config))


def _turned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows for columns, either way."""
    return {
        name: tensor.t().contiguous() if name.endswith(BY_INPUT) and tensor.dim() == 2 else tensor
        for name, tensor in tensors.items()
    }


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    keys={
        "vocab_size": "vocab_size",
        "width": "n_embd",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "feedforward_width": "n_inner",
        "max_positions": "n_positions",
        "norm_eps": "layer_norm_epsilon",
        "tied_embeddings": "tie_word_embeddings",
        "attention_dropout": "attn_pdrop",
        "residual_dropout": "resid_pdrop",
        "embedding_dropout": "embd_pdrop",
    },
    defaults={
        "vocab_size": 50257,
        "width": 768,
        "num_layers": 12,
        "num_heads": 12,
        "max_positions": 1024,
        "norm_eps": 1e-5,
        "tied_embeddings": True,
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
        "embedding_dropout": 0.1,
    },
    derived={**MULTI_HEAD, "feedforward_width": four_widths},
    fixed={
        "norm": "layer",
        "feedforward": "gelu_tanh",
        "qkv_bias": True,
        "output_bias": True,
        "feedforward_bias": True,
    },
    required={
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    modules={
        "embedding": "transformer.wte",
        "embedding.positions": "transformer.wpe",
        "layers.{}.attention_norm": "transformer.h.{}.ln_1",
        "layers.{}.attention.q": "transformer.h.{}.attn.q",
        "layers.{}.attention.k": "transformer.h.{}.attn.k",
        "layers.{}.attention.v": "transformer.h.{}.attn.v",
        "layers.{}.attention.o": "transformer.h.{}.attn.c_proj",
        "layers.{}.feedforward_norm": "transformer.h.{}.ln_2",
        "layers.{}.feedforward.up": "transformer.h.{}.mlp.c_fc",
        "layers.{}.feedforward.down": "transformer.h.{}.mlp.c_proj",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    ignored=r"\.attn\.(masked_)?bias$",
    read_position=reads_only(LearnedOptions()),
    write_position=writes_only(LearnedOptions()),
    unpack=unpack,
    pack=pack,
)
