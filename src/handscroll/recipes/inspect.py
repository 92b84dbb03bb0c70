"""What a model's folder holds and what it would need, from config.json and the headers of its weights alone.

Leaves shapes to `model/checkpoint.py`, and what a cache will hold to the policies (`kvcache/plan.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from handscroll.generation.engine import CHUNK
from handscroll.kvcache import POLICIES, Policy, describe, disk_of, make_policy, usual_policy
from handscroll.kvcache.plan import Text
from handscroll.measure.results import policy_name
from handscroll.model import ModelConfig
from handscroll.model.attention import ATTENTION_KINDS
from handscroll.model.checkpoint import Shapes, load_shapes, resolve
from handscroll.model.footprint import encoding_bytes, parameter_count
from handscroll.model.free_memory import available_memory
from handscroll.model.heads import HEAD_KINDS, MaskedLmOptions
from handscroll.model.options import describe_options
from handscroll.model.position import POSITION_KINDS, make_position
from handscroll.model.slots import VocabularyOptions
from handscroll.recipes.placement import AUTO, chosen_device, chosen_dtype
from handscroll.text import Tokenizer


@dataclass(frozen=True)
class Need:
    """A text that a model is to read: `batch` of them at a time, `context` tokens each; None: the trained window."""

    context: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: at least 1")


def inspect_model(
    folder_or_id: str,
    need: Need = Need(),
    policies: Sequence[Policy] = (),
    *,
    dtype: str = AUTO,
    device: str = AUTO,
) -> dict[str, Any]:
    """Plain data. `policies`: those whose memory is told of, by default one of each kind, of a model that reads in
    both directions the one that it has unless another is named.

    Raises FileNotFoundError and ValueError where loading would, but for what only the numbers tell.
    """
    place = chosen_device(device)
    numbers = chosen_dtype(dtype, place)
    folder = resolve(folder_or_id)
    shapes = load_shapes(folder)
    loaded = numbers or shapes.parameters["embedding.weight"].dtype
    weights = sum(each.numel() * (numbers or each.dtype).itemsize for each in shapes.parameters.values())
    context = need.context or shapes.config.max_positions
    text = Text(context, need.batch, loaded, CHUNK, place.type != "cpu")
    names = [usual_policy(shapes.config)] if shapes.config.mask == "prefix" else list(POLICIES)
    chosen = policies or [make_policy(name) for name in names]
    if continues(shapes.config) or policies:
        memory = [_memory(policy, shapes.config, text) for policy in chosen]
    else:
        memory = [_without_cache(shapes.config, text)]
    return {
        "model": str(folder_or_id),
        "architecture": architecture(shapes),
        "commands": commands(shapes.config),
        "parameters": sum(each.numel() for each in shapes.parameters.values()),
        "active_parameters": parameter_count(shapes.config, active=True),
        "kinds": kinds(shapes),
        "dtype": sorted({_name(each.dtype) for each in shapes.parameters.values()}),
        "stored_bytes": shapes.stored_bytes,
        "tokenizer": tokenizer_summary(folder),
        "context": context,
        "batch": need.batch,
        "device": str(place),
        "loaded_dtype": _name(loaded),
        "weights_bytes": weights,
        "free_bytes": available_memory(place),
        "memory": memory,
    }


def architecture(shapes: Shapes) -> dict[str, Any]:
    """What fills every slot."""
    config = shapes.config
    attention = describe_options(config.attention, ATTENTION_KINDS)
    position = {key: value for key, value in asdict(config.position).items() if value is not None}
    experts = config.experts and {key: value for key, value in asdict(config.experts).items() if value is not None}
    biases = [name for name in ("qkv_bias", "output_bias", "feedforward_bias") if getattr(config, name)]
    return {
        "family": shapes.family.model_type,
        "layers": config.num_layers,
        "width": config.width,
        "vocabulary": config.vocab_size,
        "trained_window": config.max_positions,
        "attention": {key: value for key, value in attention.items() if value is not None},
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_width": config.head_width,
        "query_key_norm": config.qk_norm,
        "sliding_window": config.sliding_window,
        "windowed_from_layer": config.windowed_from if config.sliding_window else None,
        "position": next(name for name, kind in POSITION_KINDS.items() if kind is type(config.position)),
        "position_options": position,
        "mask": config.mask,
        "embedding": {key: value for key, value in asdict(config.embedding).items() if value is not None},
        "shared_layers": config.shared_layers,
        "norm": config.norm,
        "norm_placement": config.norm_placement,
        "feedforward_norm": config.feedforward_norm,
        "norm_statistics": asdict(config.norm_statistics) if config.has_running_norms else None,
        "norm_eps": config.norm_eps,
        "feedforward": config.feedforward,
        "feedforward_width": config.feedforward_width,
        "experts": experts,
        "biases": biases,
        "head": describe_options(config.head, HEAD_KINDS),
        "tied_embeddings": config.tied_embeddings,
    }


def commands(config: ModelConfig) -> list[str]:
    """What such a model can be used with."""
    if continues(config) and config.mask == "prefix":
        return ["generate", "ask", "fill" if config.position.axes == 2 else "chat", "train"]
    if continues(config):
        return ["generate", "chat", "read", "ask", "eval", "train", "extend"]
    fills = isinstance(config.head, MaskedLmOptions) and config.mask == "bidirectional"
    return ["fill", "embed"] if fills else ["embed"]


def continues(config: ModelConfig) -> bool:
    """Whether it can go on with a text, token by token."""
    return config.mask != "bidirectional" and isinstance(config.head, VocabularyOptions)


def kinds(shapes: Shapes) -> list[dict[str, Any]]:
    """Parameters by module; those of a block's modules stand in every layer, those of an expert's in every expert."""
    found: dict[str, dict[str, Any]] = {}
    for name, tensor in shapes.parameters.items():
        kind = re.sub(r"^layers\.\d+\.|(?<=\.experts)\.\d+", "", name)
        entry = found.setdefault(kind, {"kind": kind, "shape": list(tensor.shape), "each": tensor.numel(), "times": 0})
        entry["times"] += 1
    return [entry | {"total": entry["each"] * entry["times"]} for entry in found.values()]


def tokenizer_summary(folder: Path) -> dict[str, Any] | None:
    """None where the folder has no tokenizer that can be read: its weights may be looked at all the same."""
    try:
        tokenizer = Tokenizer.load(folder)
    except (ValueError, OSError):
        return None
    return {
        "tokens": tokenizer.vocab_size,
        "opens_with": tokenizer.opening_ids,
        "stops_at": list(tokenizer.stop_ids),
        "has_chat_template": tokenizer.chat_template is not None,
    }


def _without_cache(config: ModelConfig, text: Text) -> dict[str, Any]:
    activations = encoding_bytes(config, text.tokens * text.rows, text.dtype).activations
    return {"policy": "none: whole texts at once", "device_bytes": activations, "host_bytes": 0, "on_disk": False}


def _memory(policy: Policy, config: ModelConfig, text: Text) -> dict[str, Any]:
    name = policy_name(describe(policy))
    if config.mask == "bidirectional":
        why = f"this model's tokens see what comes after them (mask={config.mask}): no cache can continue their text"
        return {"policy": name, "refused": why}
    try:
        # What a policy refuses of this model, it refuses when it is started.
        cache = policy.start(config, make_position(config), text.rows)
        if config.mask == "prefix" and not all(layer.reads_prefix for layer in cache.layers):
            raise ValueError("this model reads what it continues in both directions (mask=prefix): use full")
        device, host = policy.plan(config, text)
    except ValueError as error:
        return {"policy": name, "refused": str(error)}
    return {"policy": name, "device_bytes": device, "host_bytes": host, "on_disk": disk_of(policy) is not None}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
