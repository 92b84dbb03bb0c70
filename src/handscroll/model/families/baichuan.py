"""Baichuan (arXiv 2309.10305): Llama with q, k and v in one matrix, `W_pack`; the 13B models have ALiBi for positions.

No key of config.json says which positions a model has. The 7B models have rotary ones and give their window as
`max_position_embeddings`; the 13B models have ALiBi and give it as `model_max_length` alone. That is what decides here.

Baichuan 2, told by its vocabulary, divides each row of its head by the row's length: it has the head `normalized`, and
no other vocabulary has.

A new ALiBi model is written as a 13B one, the only architecture around that is Llama but for ALiBi. Grouped heads and
heads of another width than hidden size / heads are Handscroll's own, under Llama's names of the keys; so is
`alibi_scaling: {"type": "dynamic"}`, without which others read plain ALiBi, the same up to the trained window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handscroll.model.families.family import Family
from handscroll.model.families.fused import QKV, Fused, putting_together, qkv_rows, taking_apart
from handscroll.model.families.heads import read_decoder_head
from handscroll.model.families.llama import MODULES, SIZES
from handscroll.model.heads import NormalizedHeadOptions
from handscroll.model.position import AlibiOptions, DynamicAlibiOptions
from handscroll.model.slots import HeadOptions, LmHeadOptions, PositionOptions

PACKED = Fused(".self_attn.W_pack", QKV, qkv_rows)
NORMALIZED_VOCABULARY = 125696
SCALING, ALIBI_TYPES = "alibi_scaling", {"dynamic": DynamicAlibiOptions}


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


def read_head(config: Mapping[str, Any]) -> HeadOptions:
    head = read_decoder_head(config)
    is_normalized = isinstance(head, LmHeadOptions) and config.get("vocab_size") == NORMALIZED_VOCABULARY
    return NormalizedHeadOptions() if is_normalized else head


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
    read_head=read_head,
    unpack=taking_apart(PACKED),
    pack=putting_together(PACKED),
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
    read_head=read_head,
    unpack=taking_apart(PACKED),
    pack=putting_together(PACKED),
)
