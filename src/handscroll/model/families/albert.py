"""ALBERT (arXiv 1909.11942): BERT with one layer applied again and again, and an embedding narrower than the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from handscroll.model.config import ModelConfig
from handscroll.model.families import encoder
from handscroll.model.families.encoder import FIXED, REQUIRED, SIZES, Names
from handscroll.model.families.family import Family
from handscroll.model.families.values import checked

WIDTH, MISSING_WIDTH = "embedding_size", 128
LAYER = "albert.encoder.albert_layer_groups.{}.albert_layers.0"
MODULES = {
    "embedding": "albert.embeddings.word_embeddings",
    "embedding.positions": "albert.embeddings.position_embeddings",
    "embedding.segments": "albert.embeddings.token_type_embeddings",
    "embedding.norm": "albert.embeddings.LayerNorm",
    "embedding.projection": "albert.encoder.embedding_hidden_mapping_in",
    "layers.{}.attention.q": f"{LAYER}.attention.query",
    "layers.{}.attention.k": f"{LAYER}.attention.key",
    "layers.{}.attention.v": f"{LAYER}.attention.value",
    "layers.{}.attention.o": f"{LAYER}.attention.dense",
    "layers.{}.attention_norm": f"{LAYER}.attention.LayerNorm",
    "layers.{}.feedforward.up": f"{LAYER}.ffn",
    "layers.{}.feedforward.down": f"{LAYER}.ffn_output",
    "layers.{}.feedforward_norm": f"{LAYER}.full_layer_layer_norm",
    "head": "predictions.decoder",
    "head.dense": "predictions.dense",
    "head.norm": "predictions.LayerNorm",
    "head.pooler": "albert.pooler",
    "head.relation": "sop_classifier.classifier",
    "head.classifier": "classifier",
    "head.ends": "qa_outputs",
}
NAMES = Names("albert", "predictions")


def with_activation(config: Mapping[str, Any]) -> dict[str, Any]:
    return {encoder.ACTIVATION: "gelu_new", **config}


def read_slots(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    slots = encoder.read_slots(with_activation(config), values)
    return slots | {
        "embedding": replace(slots["embedding"], width=checked(config.get(WIDTH, MISSING_WIDTH), "int", WIDTH))
    }


def write_slots(config: dict[str, Any], model: ModelConfig) -> None:
    """Mutates `config`."""
    encoder.write_slots(config, model)
    # The matrix is there whether the widths differ or not.
    config[WIDTH] = model.embedding_width


ALBERT = Family(
    model_type="albert",
    architecture="AlbertModel",
    keys=SIZES,
    defaults={
        "vocab_size": 30000,
        "width": 4096,
        "num_layers": 12,
        "num_heads": 64,
        "feedforward_width": 16384,
        "max_positions": 512,
        "norm_eps": 1e-12,
        "tied_embeddings": True,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
    },
    fixed={**FIXED, "shared_layers": True},
    required={**REQUIRED, "num_hidden_groups": 1, "inner_group_num": 1},
    modules=MODULES,
    ignored=r"position_ids$|token_type_ids$|^predictions\.|^sop_classifier\.|\.pooler\.",
    read_position=encoder.read_position,
    write_position=encoder.write_position,
    read_slots=read_slots,
    write_slots=write_slots,
    read_head=lambda config: encoder.read_head(with_activation(config)),
    write_head=encoder.write_head,
    unpack=NAMES.unpack,
    pack=NAMES.pack,
)
