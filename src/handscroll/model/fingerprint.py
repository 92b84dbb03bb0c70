"""What tells one model from another: the shape in words, and a hash over some numbers of every weight.

Knows weights and config only. A model that was trained further, merged or cast has another fingerprint; all numbers
are not looked at, as weights may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from handscroll.model.config import DROPOUTS
from handscroll.model.transformer import Transformer

# Numbers of each weight, evenly spread, that are looked at.
SAMPLE = 256


def shape_of(model: Transformer) -> dict[str, Any]:
    """The config and the weights' type as JSON values; kinds of positions and head stand beside their options.

    Without dropouts: a memory is the same whatever its model was trained with.
    """
    slots = {name: getattr(model.config, name) for name in ("position", "head")}
    kinds = {name: {"kind": type(options).__name__} | asdict(options) for name, options in slots.items()}
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    told = {key: value for key, value in asdict(model.config).items() if key not in DROPOUTS}
    shape: dict[str, Any] = json.loads(json.dumps(told | kinds | {"dtype": dtype}))
    return shape


def fingerprint(model: Transformer) -> str:
    """SHA-256 in hexadecimal."""
    digest = hashlib.sha256(json.dumps(shape_of(model), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        numbers = tensor.reshape(-1)
        sample = numbers[:: max(1, len(numbers) // SAMPLE)].float().cpu()
        digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()
