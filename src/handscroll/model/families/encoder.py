"""What BERT, ALBERT and ERNIE share: post-norm encoders with learnt positions, segments and a head by architecture.

A `...Model` has no head but a pooler. Tensors of a checkpoint that belong to another head than the architecture's are
kept and written back, so that a folder of pretraining may be used as a masked LM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from handscroll.model.config import ModelConfig
from handscroll.model.families.heads import labels_of, task_of, write_labels, write_task
from handscroll.model.families.values import checked
from handscroll.model.heads import (
    MaskedLmOptions,
    PretrainingOptions,
    SequenceClassificationOptions,
    SpanOptions,
    StatesOptions,
    TokenClassificationOptions,
)
from handscroll.model.slots import EmbeddingOptions, HeadOptions, LearnedOptions, PositionOptions

SIZES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "feedforward_width": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "norm_eps": "layer_norm_eps",
    "tied_embeddings": "tie_word_embeddings",
    "attention_dropout": "attention_probs_dropout_prob",
    "residual_dropout": "hidden_dropout_prob",
    "embedding_dropout": "hidden_dropout_prob",
}
FIXED = {
    "norm": "layer",
    "norm_placement": "post",
    "mask": "bidirectional",
    "qkv_bias": True,
    "output_bias": True,
    "feedforward_bias": True,
}
REQUIRED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
ACTIVATION, SEGMENTS = "hidden_act", "type_vocab_size"
# As config.json says it, and as the feed-forward slot and the masked LM's head do. The first of each is written.
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
TASKS: dict[type[HeadOptions], str] = {
    StatesOptions: "Model",
    MaskedLmOptions: "ForMaskedLM",
    PretrainingOptions: "ForPreTraining",
    SequenceClassificationOptions: "ForSequenceClassification",
    TokenClassificationOptions: "ForTokenClassification",
    SpanOptions: "ForQuestionAnswering",
}
# What older files call a norm's weight and bias.
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def read_position(config: Mapping[str, Any], max_positions: int) -> PositionOptions:
    return LearnedOptions()


def write_position(config: dict[str, Any], position: PositionOptions) -> None:
    """ValueError for positions that aren't learnt."""
    if position != LearnedOptions():
        raise ValueError(f"an encoder's checkpoint can't say position={position!r}: only learnt ones")


def activation_of(config: Mapping[str, Any], missing: str = "gelu") -> str:
    name = config.get(ACTIVATION, missing)
    if name not in ACTIVATIONS:
        raise ValueError(f"{ACTIVATION}={name!r} isn't supported; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def write_activation(config: dict[str, Any], activation: str) -> None:
    """Mutates `config`. ValueError for one that no key says."""
    name = next((name for name, ours in ACTIVATIONS.items() if ours == activation), None)
    if name is None:
        raise ValueError(f"an encoder's checkpoint can't say feedforward={activation!r}")
    config[ACTIVATION] = name


def read_slots(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What no single key gives: heads divide the width evenly, each with its own keys."""
    if values["width"] % values["num_heads"]:
        raise ValueError(
            f"hidden_size={values['width']} is not a multiple of num_attention_heads={values['num_heads']}: "
            "correct one of them"
        )
    return {
        "num_kv_heads": values["num_heads"],
        "head_width": values["width"] // values["num_heads"],
        "feedforward": activation_of(config),
        "embedding": EmbeddingOptions(segments=checked(config.get(SEGMENTS, 2), "int", SEGMENTS), norm=True),
    }


def write_slots(config: dict[str, Any], model: ModelConfig) -> None:
    """Mutates `config`."""
    if config.get(ACTIVATION) is None or activation_of(config) != model.feedforward:
        write_activation(config, model.feedforward)
    config[SEGMENTS] = model.embedding.segments


def read_head(config: Mapping[str, Any]) -> HeadOptions:
    """ValueError for an architecture that isn't known; where none is named there is no head."""
    task = task_of(config) or "Model"
    if task not in TASKS.values():
        known = ", ".join(f"...{each}" for each in TASKS.values())
        raise ValueError(f"architectures={config['architectures']!r} isn't supported; known: {known}")
    if task == "ForMaskedLM":
        return MaskedLmOptions(activation_of(config))
    if task == "ForPreTraining":
        return PretrainingOptions(activation_of(config))
    if task == "ForSequenceClassification":
        return SequenceClassificationOptions(labels_of(config), pooler=True)
    if task == "ForTokenClassification":
        return TokenClassificationOptions(labels_of(config))
    if task == "ForQuestionAnswering":
        if labels_of(config) != 2:
            raise ValueError(f"{labels_of(config)} labels of a ...{task} aren't supported: only an answer's two ends")
        return SpanOptions()
    return StatesOptions(pooler=True)


def write_head(config: dict[str, Any], head: HeadOptions, architecture: str) -> None:
    """Mutates `config`. ValueError for a head that no encoder's class has."""
    task = TASKS.get(type(head))
    if task is None:
        raise ValueError(f"an encoder's checkpoint can't say head={head!r}")
    if isinstance(head, TokenClassificationOptions):
        write_labels(config, head.num_labels)
    write_task(config, architecture, task)


class Names:
    """The names of an encoder's tensors: with `prefix` but in a file without a head; the bias of tokens beside them.

    `vocabulary` is the module that holds the bias and `decoder`, the linear map to the vocabulary, which is often tied.
    """

    def __init__(self, prefix: str, vocabulary: str):
        self.prefix = f"{prefix}."
        self.bias, self.decoder = f"{vocabulary}.bias", f"{vocabulary}.decoder.bias"

    def unpack(self, tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """As files with a head name them, and the bias as the linear map's."""
        new = {self._modern(name): tensor for name, tensor in tensors.items()}
        if not any(name.startswith(self.prefix) for name in new):
            new = {self.prefix + name: tensor for name, tensor in new.items()}
        # transformers reads the first of the two where the map is tied, else the second, and writes both.
        if self.bias in new and (config.tied_embeddings or self.decoder not in new):
            new[self.decoder] = new.pop(self.bias)
        return new

    def pack(self, tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """The inverse, with the names of today."""
        new = dict(tensors)
        if self.decoder in new and config.tied_embeddings:
            new[self.bias] = new.pop(self.decoder)
        elif self.decoder in new:
            new.setdefault(self.bias, new[self.decoder].clone())
        if isinstance(config.head, StatesOptions):
            new = {name.removeprefix(self.prefix): tensor for name, tensor in new.items()}
        return new

    def _modern(self, name: str) -> str:
        for old, today in OLD_NAMES.items():
            name = re.sub(rf"{re.escape(old)}$", today, name)
        return name
