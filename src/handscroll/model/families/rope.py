"""How a config.json says what rotary positions are, both ways, in the styles of transformers 4 and 5.

Version 4 has `rope_theta`, and `rope_scaling` where the window is stretched; version 5 has both in `rope_parameters`.
A method is named by `rope_type`, in older files by `type`, and its options have Hugging Face's names for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

from handscroll.model.config import ModelConfig, PositionOptions, RopeOptions
from handscroll.model.families.values import checked
from handscroll.model.position import (
    DynamicOptions,
    LinearOptions,
    Llama3Options,
    LongRopeOptions,
    NtkOptions,
    YarnOptions,
)

ROPE_TYPES: dict[str, type[RopeOptions]] = {
    "default": RopeOptions,
    "linear": LinearOptions,
    "dynamic": DynamicOptions,
    "yarn": YarnOptions,
    "llama3": Llama3Options,
    "longrope": LongRopeOptions,
}
STYLES = ("rope_parameters", "rope_scaling")
ORIGINAL = "original_max_position_embeddings"
# Options whose key isn't their own name.
KEYS = {"theta": "rope_theta", "original_max_positions": ORIGINAL}
OWN_KEYS = {KEYS.get(each.name, each.name) for options in ROPE_TYPES.values() for each in fields(options)}
OWN_KEYS |= {"rope_type", "type"}


def read_rope(config: Mapping[str, Any], max_positions: int) -> RopeOptions:
    """The rotary options of a config.json of either style. ValueError names what is missing, mistyped or unknown."""
    given = {style: config[style] for style in STYLES if config.get(style)}
    for style, description in given.items():
        if not isinstance(description, Mapping) or any(isinstance(each, Mapping) for each in description.values()):
            raise ValueError(f"{style}={description!r} isn't supported: give one {{'rope_theta': ...}} for all layers")
    for part in (config, *given.values()):
        if part.get("partial_rotary_factor") not in (None, 1.0):
            raise ValueError(f"partial_rotary_factor={part['partial_rotary_factor']!r} isn't supported yet: only 1.0")
    theta = _theta(config, given)
    found = {style: _options(style, given[style], config, theta, max_positions) for style in given}
    if len(set(found.values())) > 1:
        raise ValueError(f"{' and '.join(found)} say different things: remove one of them")
    return next(iter(found.values()), RopeOptions(theta))


def write_rope(config: dict[str, Any], position: PositionOptions) -> None:
    """Writes the options where `config` keeps them already (mutates); else in version 4's style, which both read.

    ValueError for positions that are not rotary.
    """
    if not isinstance(position, RopeOptions):
        raise ValueError(
            f"rotary positions are all that a {config.get('model_type')} checkpoint can say, not {position!r}"
        )
    kind = next(name for name, options in ROPE_TYPES.items() if options is type(position))
    told = {KEYS.get(each.name, each.name): getattr(position, each.name) for each in fields(position)}
    told = {key: list(value) if isinstance(value, tuple) else value for key, value in told.items() if value is not None}
    theta = told.pop("rope_theta")
    styles = [style for style in STYLES if config.get(style)]
    if not styles and kind != "default":
        styles = ["rope_scaling"]
    for style in styles:
        old = config.get(style) or {}
        new = {key: value for key, value in old.items() if key not in OWN_KEYS} | told
        if style == "rope_parameters" or "rope_theta" in old:
            new["rope_theta"] = theta
        is_plain = kind == "default" and style == "rope_scaling" and not new
        config[style] = None if is_plain else new | {"rope_type": kind} | ({"type": kind} if "type" in old else {})
    if not config.get("rope_parameters") or "rope_theta" in config:
        config["rope_theta"] = theta
    if ORIGINAL in config and ORIGINAL in told:
        config[ORIGINAL] = told[ORIGINAL]


def sayable(config: ModelConfig) -> ModelConfig:
    """The same model in options that Hugging Face has a name for: a fixed NTK factor is nothing but a larger theta."""
    if isinstance(config.position, NtkOptions):
        return replace(config, position=config.position.plain(config.head_width))
    return config


def _theta(config: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]]) -> float:
    """The one theta that a config.json names, in however many places."""
    thetas = {"rope_theta": config.get("rope_theta")}
    thetas |= {f"{style}.rope_theta": description.get("rope_theta") for style, description in given.items()}
    named = {key: checked(value, "float", key) for key, value in thetas.items() if value is not None}
    if len(set(named.values())) > 1:
        raise ValueError(f"{' and '.join(f'{key}={value}' for key, value in named.items())}: remove all but one")
    theta: float = next(iter(named.values()), RopeOptions().theta)
    if theta <= 0:
        raise ValueError(f"rope_theta={theta}: it must be positive")
    return theta


def _options(
    style: str, description: Mapping[str, Any], config: Mapping[str, Any], theta: float, max_positions: int
) -> RopeOptions:
    """The options of one description. An original window that isn't named is the window, as in transformers."""
    kind = description.get("rope_type") or description.get("type") or "default"
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        raise ValueError(f"{style} has type {kind!r}, which isn't supported; known: {', '.join(ROPE_TYPES)}")
    values: dict[str, Any] = {"theta": theta}
    for each in fields(ROPE_TYPES[kind]):
        if each.name in values:
            continue
        key = KEYS.get(each.name, each.name)
        # Beside the description, the original window overrides the one in it: transformers does so for Phi-3.
        sources = [config.get(key), description.get(key), max_positions] if key == ORIGINAL else [description.get(key)]
        value = next((source for source in sources if source is not None), None)
        if value is not None:
            values[each.name] = checked(value, str(each.type), key)
        elif each.default is MISSING:
            raise ValueError(f"{key} is missing: {style} of type {kind!r} must give it")
    return ROPE_TYPES[kind](**values)
