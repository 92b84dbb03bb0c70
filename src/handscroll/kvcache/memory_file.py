"""A cache on disk: what a model has read is saved once, and goes on later as if it had never stopped.

`save` writes one file, whole or not at all: the cache's state, the policy as `describe` gives it, and what tells the
model. `load` refuses the memory of another model: keys and values mean nothing to any other. Nothing is unpickled, and
an archive stays mapped, so that loading takes no longer for a longer text.

Leaves the file's format to `state.py`, what is saved of a layer to the layer, and texts to the caller (`notes`).
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from handscroll.kvcache import Policy, describe, make_policy
from handscroll.kvcache.layered import LayeredCache
from handscroll.kvcache.places import lasting
from handscroll.kvcache.state import State, read_state, write_state
from handscroll.model import Transformer
from handscroll.model.fingerprint import fingerprint, shape_of

# Goes up when a file of the version before can no longer be read.
FORMAT = 1


class Memory(NamedTuple):
    """A cache, the policy that it was started by, and what its maker wants to find again: plain values and tensors.

    `maker` names the model for people, such as its folder.
    """

    cache: LayeredCache
    policy: Policy
    notes: State
    maker: str


def save(path: Path, memory: Memory, model: Transformer) -> None:
    """Writes what the model has read to one file. OSError where it can't be written; then what was there stays."""
    cache, policy = memory.cache, memory.policy
    assert policy.start(model.config, model.position, 0).origin == cache.origin, "the cache is another policy's"
    write_state(
        path,
        {
            "format": FORMAT,
            "version": version("handscroll"),
            "model": {"maker": memory.maker, "shape": shape_of(model), "fingerprint": fingerprint(model)},
            "policy": describe(policy),
            "lengths": list(cache.lengths),
            "cache": cache.state(),
            "notes": memory.notes,
        },
    )


def load(path: Path, model: Transformer) -> Memory:
    """What `save` has written, for the same model, on that model's device.

    Raises FileNotFoundError for no file; ValueError for what is no memory or is damaged, for a memory that a newer
    version has written, and for that of another model, saying how it differs.
    """
    with lasting():
        state = read_state(path)
        if state["format"] > FORMAT:
            raise ValueError(
                f"{path} was saved by Handscroll {state['version']}, in a newer format ({state['format']}) than this "
                f"version knows ({FORMAT}): use that version, or read the text again"
            )
        _check_model(path, state["model"], model)
        policy = make_policy(state["policy"])
        cache = policy.start(model.config, model.position, len(state["lengths"]))
        cache.restore(state["cache"], model.device)
    assert list(cache.lengths) == state["lengths"], "a restored cache is as long as the saved one"
    return Memory(cache, policy, state["notes"], state["model"]["maker"])


def _check_model(path: Path, saved: dict[str, Any], model: Transformer) -> None:
    shape = shape_of(model)
    changed = [key for key in saved["shape"].keys() | shape.keys() if saved["shape"].get(key) != shape.get(key)]
    if changed:
        key = min(changed)
        difference = f"{key} is {saved['shape'].get(key)} there and {shape.get(key)} here"
    elif saved["fingerprint"] != fingerprint(model):
        difference = "of the same shape, but with other weights"
    else:
        return
    raise ValueError(
        f"{path} was made by another model, {saved['maker']} ({difference}): ask that one, "
        "or read the text with this one"
    )
