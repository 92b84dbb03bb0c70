"""Ways of remembering: cache policies and the stores that hold their bytes, behind the protocol that model/ owns.

A policy is frozen options; `policy.start(config, position, rows)` gives a cache; the transformer hands every layer's
unrotated queries, keys and values to it and reads what comes back. A variant is named the same way everywhere:
`{"policy": "block_memory", "window": 256}`, `{"policy": "quantized", "bits": 4, "inner": "full"}`.

What a model's own attention keeps in place of keys (a state, pooled keys, a pattern) is chosen in
`attention_layers.py`, under `full`.

Caches of one policy and model are joined (`join`); `memory_file.py` saves a cache and loads it.

To add a policy:
1. write `kvcache/NAME.py`: a frozen dataclass of options with `chunk_invariant`, `start` and `plan` (`plan.py`), and a
   `LayerCache`;
2. rotate keys at insertion where nothing moves, at use where keys move or `position.depends_on_length`: then for the
   length of what is attended to; where `position.adds_bias`, attend with its bias between the same positions; decide
   visibility by index alone, and by a layout's prefix where the layer `reads_prefix`;
3. give the layer `select`, `join`, `state` and `restore` for what it holds beside its store, which has its own;
4. add one line to `POLICIES` below;
5. the contract tests in `tests/kvcache/` run over every entry of the dict by themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from handscroll.kvcache.attention_sinks import AttentionSinks
from handscroll.kvcache.block_memory import BlockMemory
from handscroll.kvcache.full import Full
from handscroll.kvcache.heavy_hitters import HeavyHitters
from handscroll.kvcache.offloaded import Offloaded
from handscroll.kvcache.per_head_budget import PerHeadBudget
from handscroll.kvcache.quantized import Quantized
from handscroll.kvcache.segment_recurrence import SegmentRecurrence
from handscroll.kvcache.sliding_window import SlidingWindow
from handscroll.kvcache.snapkv import SnapKV
from handscroll.model.config import ModelConfig
from handscroll.model.options import validated
from handscroll.model.position import make_position

if TYPE_CHECKING:
    from handscroll.text import Tokenizer

Policy = (
    Full
    | SlidingWindow
    | SegmentRecurrence
    | AttentionSinks
    | HeavyHitters
    | SnapKV
    | PerHeadBudget
    | BlockMemory
    | Quantized
    | Offloaded
)

POLICIES: dict[str, type[Policy]] = {
    "full": Full,
    "sliding_window": SlidingWindow,
    "attention_sinks": AttentionSinks,
    "heavy_hitters": HeavyHitters,
    "snapkv": SnapKV,
    "per_head_budget": PerHeadBudget,
    "block_memory": BlockMemory,
    "segment_recurrence": SegmentRecurrence,
    "quantized": Quantized,
    "offloaded": Offloaded,
}


def make_policy(name: str | Mapping[str, Any] | Policy) -> Policy:
    """A policy from its bare name or from {"policy": name, option: value}. ValueError names what is wrong.

    An option `inner` is a policy itself, named in the same ways.
    """
    if not isinstance(name, str | Mapping):
        return name
    options: dict[str, Any] = {"policy": name} if isinstance(name, str) else dict(name)
    kind = options.pop("policy", None)
    if kind not in POLICIES:
        raise ValueError(f"unknown cache policy {kind!r}: known are {', '.join(POLICIES)}")
    policy = POLICIES[kind]
    known = [option.name for option in dataclasses.fields(policy)]
    for option in options:
        if option not in known:
            raise ValueError(f"{kind} has no option {option!r}: known are {', '.join(known) or 'none'}")
    # A policy around another can't import all of them; its `inner` is made here.
    hints = get_type_hints(policy, localns={"Policy": Any})
    given: dict[str, Any] = {
        option: make_policy(value) if option == "inner" else validated(value, hints[option], option)
        for option, value in options.items()
    }
    return policy(**given)


def usual_policy(config: ModelConfig) -> str:
    """What a model remembers by where nobody says: block_memory, or full where attention or positions forbid it.

    A prefix that is read in both directions has to be held whole, too.
    """
    if config.mask == "prefix":
        return "full"
    try:
        BlockMemory().start(config, make_position(config), 1)
    except ValueError:
        return "full"
    return "block_memory"


def cuts_sentences(policy: Policy) -> bool:
    """Whether whoever reads a text for this policy has to say where its sentences end."""
    if isinstance(policy, Quantized | Offloaded):
        return cuts_sentences(policy.inner)
    return isinstance(policy, BlockMemory) and policy.cut == "sentences"


def breaks_for(policy: Policy, tokenizer: Tokenizer) -> Sequence[int]:
    """The tokens that whoever reads a text for this policy names as its breaks; none where nothing is cut there."""
    return tokenizer.sentence_ends if cuts_sentences(policy) else ()


def disk_of(policy: Policy) -> Path | None:
    """The folder of the file that a policy's archive goes to; None where it stays in memory."""
    if isinstance(policy, Offloaded) and policy.disk is not None:
        return policy.disk
    return disk_of(policy.inner) if isinstance(policy, Quantized | Offloaded) else None


def describe(policy: Policy) -> dict[str, Any]:
    """The policy as `make_policy` takes it, defaults left out."""
    name = next(name for name, kind in POLICIES.items() if isinstance(policy, kind) and type(policy) is kind)
    options = {option.name: (getattr(policy, option.name), option.default) for option in dataclasses.fields(policy)}
    changed = {option: value for option, (value, default) in options.items() if value != default}
    if "inner" in changed:
        changed["inner"] = describe(changed["inner"])
    return {"policy": name} | changed


__all__ = [
    "POLICIES",
    "AttentionSinks",
    "BlockMemory",
    "Full",
    "HeavyHitters",
    "Offloaded",
    "PerHeadBudget",
    "Policy",
    "Quantized",
    "SegmentRecurrence",
    "SlidingWindow",
    "SnapKV",
    "breaks_for",
    "cuts_sentences",
    "describe",
    "disk_of",
    "make_policy",
    "usual_policy",
]
