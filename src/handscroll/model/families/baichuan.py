"""Baichuan (arXiv 2309.10305): Llama with q, k and v in one matrix, `W_pack`; the 13B models have ALiBi for positions.

No key of config.json says which positions a model has. The 7B models have rotary ones and give their window as
`max_position_embeddings`; the 13B models have ALiBi and give it as `model_max_length` alone. That is what decides here.

Baichuan 2, told by its vocabulary, divides each row of its head by the row's length at every step. Here the rows are
divided once, when the model is read; dividing them again changes nothing, so that others read what is written.

A new ALiBi model is written as a 13B one, the only architecture around that is Llama but for ALiBi. Grouped heads and
heads of another width than hidden size / heads are Handscroll's own, under Llama's names of the keys; so is
`alibi_scaling: {"type": "dynamic"}`, without which others read plain ALiBi, the same up to the trained window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from handscroll.model.config import ModelConfig, PositionOptions
from handscroll.model.families.family import Family
from handscroll.model.families.fused import QKV, Fused, putting_together, qkv_rows, taking_apart
from handscroll.model.families.llama import MODULES, SIZES
from handscroll.model.position import AlibiOptions, DynamicAlibiOptions

PACKED = Fused(".self_attn.W_pack", QKV, qkv_rows)
HEAD, NORMALIZED_VOCABULARY = "lm_head.weight", 125696
SCALING, ALIBI_TYPES = "alibi_scaling", {"dynamic": DynamicAlibiOptions}
# How far a row's length may be from 1 in 16 bits.
ROUNDING = 0.01


def read_alibi(config: Mapping[str, Any], max_positions: int) -> PositionOptions:
    """ValueError for a way of stretching that isn't known."""
    scaling = config.get(SCALING)
    if scaling is None:
        return AlibiOptions()
    kind = scaling.get("type") if isinstance(scaling, Mapping) else None
    if not isinstance(kind, str) or kind not in ALIBI_TYPES:
        raise ValueError(f"{SCALING}={scaling!r} isn't supported; known types: {', '.join(ALIBI_TYPES)}")
    return ALIBI_TYPES[kind]()


def write_alibi(config: dict[str, Any], position: PositionOptions) -> None:
    """Mutates `config`. ValueError for positions that aren't ALiBi."""
    if not isinstance(position, AlibiOptions):
        raise ValueError(f"a baichuan checkpoint with ALiBi can't say position={position!r}")
    kind = next((name for name, options in ALIBI_TYPES.items() if options is type(position)), None)
    if kind is None:
        config.pop(SCALING, None)
    else:
        config[SCALING] = {"type": kind}


def unpack(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The file's tensors with q, k and v apart, and a head whose rows have length 1 where the model wants that."""
    result = taking_apart(PACKED)(tensors, config)
    if HEAD in result and config.vocab_size == NORMALIZED_VOCABULARY:
        result[HEAD] = F.normalize(result[HEAD].float()).to(result[HEAD].dtype)
    return result


def pack(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The inverse. ValueError for a head whose rows readers would shorten or lengthen."""
    if config.vocab_size == NORMALIZED_VOCABULARY and HEAD in tensors:
        lengths_V = tensors[HEAD].float().norm(dim=1)
        if bool(((lengths_V - 1).abs() > ROUNDING).any()):
            raise ValueError(
                f"the rows of {HEAD} have lengths from {float(lengths_V.min()):.3g} to {float(lengths_V.max()):.3g}: "
                "readers of a Baichuan 2 checkpoint set them to 1, which would change the model; divide them first"
            )
    return putting_together(PACKED)(tensors, config)


BAICHUAN = Family(
    model_type="baichuan",
    architecture="BaichuanForCausalLM",
    keys={**SIZES, "max_positions": "model_max_length"},
    defaults={"max_positions": 4096, "norm_eps": 1e-6, "tied_embeddings": False},
    fixed={"qkv_bias": False, "output_bias": False, "feedforward_bias": False},
    required={"hidden_act": "silu"},
    modules=MODULES,
    read_position=read_alibi,
    write_position=write_alibi,
    unpack=unpack,
    pack=pack,
)
# Read and written back; a new rotary model is a Llama.
BAICHUAN_7B = Family(
    model_type="baichuan",
    architecture="BaichuanForCausalLM",
    keys=SIZES,
    defaults=BAICHUAN.defaults,
    fixed=BAICHUAN.fixed,
    required=BAICHUAN.required,
    modules=MODULES,
    unpack=unpack,
    pack=pack,
)
