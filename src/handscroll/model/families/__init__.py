"""Families of checkpoints: how each architecture names its sizes in config.json and its tensors in a weights file.

A `Family` is data: key maps and name maps. Nothing in a checkpoint's folder is ever executed, its `auto_map` included.
To add one: write `families/NAME.py` with a `Family`, and one line below; the round-trip tests run over the dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handscroll.model.config import ModelConfig
from handscroll.model.families.albert import ALBERT
from handscroll.model.families.baichuan import BAICHUAN, BAICHUAN_7B
from handscroll.model.families.bert import BERT
from handscroll.model.families.bloom import BLOOM
from handscroll.model.families.chatglm import CHATGLM
from handscroll.model.families.ernie import ERNIE
from handscroll.model.families.family import Family, Source
from handscroll.model.families.glm import GLM, GLM4
from handscroll.model.families.gpt2 import GPT2
from handscroll.model.families.llama import LLAMA
from handscroll.model.families.mistral import MISTRAL
from handscroll.model.families.mixtral import MIXTRAL
from handscroll.model.families.mpt import MPT
from handscroll.model.families.native import NATIVE
from handscroll.model.families.phi3 import PHI3
from handscroll.model.families.qwen2 import QWEN2
from handscroll.model.families.qwen3 import QWEN3
from handscroll.model.families.qwen_moe import QWEN2_MOE, QWEN3_MOE
from handscroll.model.families.stablelm import STABLELM

FAMILIES = {
    "llama": LLAMA,
    "qwen2": QWEN2,
    "mistral": MISTRAL,
    "qwen3": QWEN3,
    "stablelm": STABLELM,
    "baichuan": BAICHUAN,
    "mixtral": MIXTRAL,
    "qwen3_moe": QWEN3_MOE,
    "qwen2_moe": QWEN2_MOE,
    "bert": BERT,
    "albert": ALBERT,
    "ernie": ERNIE,
    "glm": GLM,
    "glm4": GLM4,
    "chatglm": CHATGLM,
    "phi3": PHI3,
    "gpt2": GPT2,
    "bloom": BLOOM,
    "mpt": MPT,
    "handscroll": NATIVE,
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a config.json names. ValueError lists the known ones."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"model_type={kind!r} is not supported; known: {', '.join(FAMILIES)}")
    if kind == BAICHUAN_7B.model_type and config.get(BAICHUAN_7B.keys["max_positions"]) is not None:
        return BAICHUAN_7B
    return FAMILIES[kind]


def family_for(config: ModelConfig) -> Family:
    """The family that a new model is written as: the first that can express it, the last of which can say all."""
    for family in FAMILIES.values():
        try:
            family.write(config)
        except ValueError:
            continue
        return family
    raise AssertionError("Handscroll's own family refuses nothing")


__all__ = ["FAMILIES", "Family", "Source", "family_for", "family_of"]
