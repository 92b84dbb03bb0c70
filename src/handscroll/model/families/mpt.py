"""MPT (MosaicML 2023, https://huggingface.co/mosaicml/mpt-7b): ALiBi, LayerNorm, GELU, and no bias anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handscroll.model.families.family import MULTI_HEAD, Family, four_widths, writes_only
from handscroll.model.families.fused import Fused, putting_together, qkv_rows, taking_apart
from handscroll.model.position import AlibiOptions
from handscroll.model.slots import PositionOptions

ATTENTION = "attn_config"
# What each of its keys means where it is missing, and the only thing it may say.
ALLOWED = {
    "attn_type": "multihead_attention",
    "alibi": True,
    "alibi_bias_max": 8,
    "clip_qkv": None,
    "prefix_lm": False,
    "qk_ln": False,
    "softmax_scale": None,
}
LAYER = "transformer.blocks.{}"
FUSED = Fused(".attn.Wqkv", (".attn.q", ".attn.k", ".attn.v"), qkv_rows)


def read_attention(config: Mapping[str, Any], max_positions: int) -> PositionOptions:
    """ValueError for attention that isn't as in the published models."""
    given = config.get(ATTENTION) or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{ATTENTION}={given!r} is not a mapping")
    for key, allowed in ALLOWED.items():
        if given.get(key, allowed) != allowed:
            raise ValueError(f"{ATTENTION}.{key}={given[key]!r} isn't supported: only {allowed!r}")
    return AlibiOptions()


MPT = Family(
    model_type="mpt",
    architecture="MptForCausalLM",
    keys={
        "vocab_size": "vocab_size",
        "width": "d_model",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "max_positions": "max_seq_len",
        "norm_eps": "layer_norm_epsilon",
        "tied_embeddings": "tie_word_embeddings",
        "residual_dropout": "resid_pdrop",
        "embedding_dropout": "emb_pdrop",
    },
    defaults={
        "width": 2048,
        "num_layers": 24,
        "num_heads": 16,
        "vocab_size": 50368,
        "max_positions": 2048,
        "norm_eps": 1e-5,
        "tied_embeddings": True,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
    },
    derived={**MULTI_HEAD, "feedforward_width": four_widths},
    fixed={
        "norm": "layer_no_bias",
        "feedforward": "gelu",
        "qkv_bias": False,
        "output_bias": False,
        "feedforward_bias": False,
    },
    required={"expansion_ratio": 4, "no_bias": True, "logit_scale": None},
    modules={
        "embedding": "transformer.wte",
        "layers.{}.attention_norm": f"{LAYER}.norm_1",
        "layers.{}.attention.q": f"{LAYER}.attn.q",
        "layers.{}.attention.k": f"{LAYER}.attn.k",
        "layers.{}.attention.v": f"{LAYER}.attn.v",
        "layers.{}.attention.o": f"{LAYER}.attn.out_proj",
        "layers.{}.feedforward_norm": f"{LAYER}.norm_2",
        "layers.{}.feedforward.up": f"{LAYER}.ffn.up_proj",
        "layers.{}.feedforward.down": f"{LAYER}.ffn.down_proj",
        "norm": "transformer.norm_f",
        "head": "lm_head",
    },
    read_position=read_attention,
    write_position=writes_only(AlibiOptions()),
    unpack=taking_apart(FUSED),
    pack=putting_together(FUSED),
)
