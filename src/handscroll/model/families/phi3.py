"""Phi-3 and Phi-4-mini (arXiv 2404.14219, 2503.01743): Llama with fused matrices; Phi-4-mini turns a part of a head."""

from __future__ import annotations

from functools import partial

from handscroll.model.families.family import Family
from handscroll.model.families.fused import GATE_UP, QKV, Fused, putting_together, qkv_rows, taking_apart
from handscroll.model.families.llama import DROPOUT, MODULES, SIZES
from handscroll.model.families.rope import read_rope, write_rope
from handscroll.model.families.windows import read_mistral, write_mistral

FUSED = (Fused(".self_attn.qkv_proj", QKV, qkv_rows), GATE_UP)

PHI3 = Family(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    keys={**SIZES, **DROPOUT, "residual_dropout": "resid_pdrop", "embedding_dropout": "embd_pdrop"},
    defaults={
        "max_positions": 4096,
        "norm_eps": 1e-5,
        "tied_embeddings": False,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
    },
    fixed={"qkv_bias": False, "output_bias": False, "feedforward_bias": False},
    required={"hidden_act": "silu"},
    modules=MODULES,
    read_position=partial(read_rope, missing_share=1.0),
    write_position=partial(write_rope, missing_share=1.0),
    read_windows=partial(read_mistral, missing=None),
    write_windows=write_mistral,
    unpack=taking_apart(*FUSED),
    pack=putting_together(*FUSED),
)
