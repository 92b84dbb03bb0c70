"""ERNIE (arXiv 1904.09223; 2.0, arXiv 1907.12412): BERT pretrained by masking whole words and names.

ERNIE 2.0 and 3.0 add a vector of the task to every token, where `use_task_id` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from handscroll.model.config import ModelConfig
from handscroll.model.families import encoder
from handscroll.model.families.bert import DEFAULTS, SPARE, modules_of
from handscroll.model.families.encoder import FIXED, REQUIRED, SIZES, Names
from handscroll.model.families.family import Family
from handscroll.model.families.values import checked

USES_TASKS, TASKS, MISSING_TASKS = "use_task_id", "task_type_vocab_size", 3
NAMES = Names("ernie", "cls.predictions")


def read_slots(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    slots = encoder.read_slots(config, values)
    tasks = checked(config.get(TASKS, MISSING_TASKS), "int", TASKS) if config.get(USES_TASKS) else 0
    return slots | {"embedding": replace(slots["embedding"], tasks=tasks)}


def write_slots(config: dict[str, Any], model: ModelConfig) -> None:
    """Mutates `config`."""
    encoder.write_slots(config, model)
    config[USES_TASKS] = model.embedding.tasks > 0
    if model.embedding.tasks:
        config[TASKS] = model.embedding.tasks


ERNIE = Family(
    model_type="ernie",
    architecture="ErnieModel",
    keys=SIZES,
    defaults=DEFAULTS,
    fixed=FIXED,
    required=REQUIRED,
    modules={**modules_of("ernie"), "embedding.tasks": "ernie.embeddings.task_type_embeddings"},
    ignored=SPARE,
    read_position=encoder.read_position,
    write_position=encoder.write_position,
    read_slots=read_slots,
    write_slots=write_slots,
    read_head=encoder.read_head,
    write_head=encoder.write_head,
    unpack=NAMES.unpack,
    pack=NAMES.pack,
)
