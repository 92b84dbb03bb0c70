"""Which head a checkpoint has: the class of transformers that config.json names, such as LlamaForTokenClassification.

How many labels there are is the length of `id2label`. A reward model is a sequence classifier of one label.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from handscroll.model.families.values import checked
from handscroll.model.heads import ScalarOptions, SequenceClassificationOptions, TokenClassificationOptions
from handscroll.model.slots import HeadOptions, LmHeadOptions

ARCHITECTURES, LABELS, IDS = "architectures", "id2label", "label2id"
# What transformers takes where config.json names no labels.
MISSING_LABELS = 2
TASK = re.compile(r"(For\w+|Model)$")
# Modules of these heads in the file of a decoder.
SCORE = {"head.score": "score", "head.classifier": "score"}


def task_of(config: Mapping[str, Any]) -> str | None:
    """What the architecture's name ends in, "ForCausalLM" or "Model"; None where it has no such name."""
    named = config.get(ARCHITECTURES)
    if not named:
        return None
    if not isinstance(named, list | tuple) or not isinstance(named[0], str):
        raise ValueError(f"{ARCHITECTURES}={named!r} is not a list of names")
    found = TASK.search(named[0])
    return None if found is None else found[0]


def write_task(config: dict[str, Any], architecture: str, task: str) -> None:
    """Mutates `config`. `architecture`: the family's usual one, whose task is exchanged."""
    config[ARCHITECTURES] = [TASK.sub("", architecture) + task]


def labels_of(config: Mapping[str, Any]) -> int:
    named = config.get(LABELS)
    if isinstance(named, Mapping) and named:
        return len(named)
    count: int = checked(config.get("num_labels", MISSING_LABELS), "int", "num_labels")
    return count


def write_labels(config: dict[str, Any], count: int) -> None:
    """Names them as transformers does (mutates `config`), unless as many are named already."""
    if labels_of(config) != count:
        config.pop("num_labels", None)
        config[LABELS] = {str(number): f"LABEL_{number}" for number in range(count)}
        config[IDS] = {name: int(number) for number, name in config[LABELS].items()}


def read_decoder_head(config: Mapping[str, Any]) -> HeadOptions:
    """Of a class that isn't known here the language model's."""
    task = task_of(config)
    if task == "ForSequenceClassification":
        count = labels_of(config)
        return ScalarOptions() if count == 1 else SequenceClassificationOptions(count, False, pooling="last")
    if task == "ForTokenClassification":
        return TokenClassificationOptions(labels_of(config))
    return LmHeadOptions()


def write_decoder_head(config: dict[str, Any], head: HeadOptions, architecture: str) -> None:
    """Mutates `config`; a head that no class has is left unsaid."""
    task = "ForCausalLM"
    if isinstance(head, ScalarOptions | SequenceClassificationOptions):
        task = "ForSequenceClassification"
        write_labels(config, 1 if isinstance(head, ScalarOptions) else head.num_labels)
    elif isinstance(head, TokenClassificationOptions):
        task = "ForTokenClassification"
        write_labels(config, head.num_labels)
    write_task(config, architecture, task)
