"""How a config.json says what rotary positions are, both ways, in the styles of transformers 4 and 5.

Version 4 has `rope_theta`, and `rope_scaling` where the window is stretched; version 5 has both in `rope_parameters`.
A method is named by `rope_type`, in older files by `type`, and its options have Hugging Face's names for them. How much
of a head is turned stands beside theta, wherever that is; how features are paired no file says: an architecture does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

from handscroll.model.config import ModelConfig
from handscroll.model.families.values import checked
from handscroll.model.position import (
    DynamicOptions,
    LinearOptions,
    Llama3Options,
    LongRopeOptions,
    NtkOptions,
    YarnOptions,
)
from handscroll.model.slots import PositionOptions, RopeOptions

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
KEYS = {"theta": "rope_theta", "share": "partial_rotary_factor", "original_max_positions": ORIGINAL}
SHARE = KEYS["share"]
UNSAID = ("pairing", "share")
OWN_KEYS = {
    KEYS.get(each.name, each.name)
    for options in ROPE_TYPES.values()
    for each in fields(options)
    if each.name not in UNSAID
}
OWN_KEYS |= {"rope_type", "type"}


def read_rope(
    config: Mapping[str, Any], max_positions: int, *, pairing: str = "halves", missing_share: float | None = None
) -> RopeOptions:
    """The rotary options of a config.json of either style. ValueError names what is missing, mistyped or unknown.

    `missing_share`: how much of a head is turned where nothing is said; None where the architecture turns whole heads.
    """
    given = {style: config[style] for style in STYLES if config.get(style)}
    for style, description in given.items():
        if not isinstance(description, Mapping) or any(isinstance(each, Mapping) for each in description.values()):
            raise ValueError(f"{style}={description!r} isn't supported: give one {{'rope_theta': ...}} for all layers")
    theta = _said("rope_theta", config, given, RopeOptions().theta)
    if theta <= 0:
        raise ValueError(f"rope_theta={theta}: it must be positive")
    share = _said(SHARE, config, given, 1.0 if missing_share is None else missing_share)
    if missing_share is None and share != 1:
        raise ValueError(f"{SHARE}={share}: this architecture turns whole heads, which is 1.0")
    common = {"theta": theta, "pairing": pairing, "share": share}
    found = {style: _options(style, given[style], config, common, max_positions) for style in given}
    if len(set(found.values())) > 1:
        raise ValueError(f"{' and '.join(found)} say different things: remove one of them")
    return next(iter(found.values()), RopeOptions(theta, pairing, share))


def write_rope(
    config: dict[str, Any],
    position: PositionOptions,
    *,
    pairing: str = "halves",
    missing_share: float | None = None,
) -> None:
    """Writes the options where `config` keeps them already (mutates); else in version 4's style, which both read.

    ValueError for positions that are not rotary, and for a pairing or a share that the architecture doesn't have.
    """
    if not isinstance(position, RopeOptions):
        raise ValueError(
            f"rotary positions are all that a {config.get('model_type')} checkpoint can say, not {position!r}"
        )
    if position.pairing != pairing or (position.share != 1 and missing_share is None):
        raise ValueError(
            f"a {config.get('model_type')} checkpoint can't say pairing={position.pairing!r}, share={position.share:g}"
        )
    kind = next(name for name, options in ROPE_TYPES.items() if options is type(position))
    told = {
        KEYS.get(each.name, each.name): getattr(position, each.name)
        for each in fields(position)
        if each.name not in UNSAID
    }
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
        if SHARE in old or (style == "rope_parameters" and missing_share is not None):
            new[SHARE] = position.share
        is_plain = kind == "default" and style == "rope_scaling" and not new
        config[style] = None if is_plain else new | {"rope_type": kind} | ({"type": kind} if "type" in old else {})
    if not config.get("rope_parameters") or "rope_theta" in config:
        config["rope_theta"] = theta
    if SHARE in config or (missing_share is not None and not config.get("rope_parameters")):
        config[SHARE] = position.share
    if ORIGINAL in config and ORIGINAL in told:
        config[ORIGINAL] = told[ORIGINAL]


def sayable(config: ModelConfig) -> ModelConfig:
    """The same model in options that Hugging Face has a name for: a fixed NTK factor is nothing but a larger theta."""
    if isinstance(config.position, NtkOptions):
        return replace(config, position=config.position.plain(config.head_width))
    return config


def _said(key: str, config: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]], missing: float) -> float:
    """The one number that a config.json gives for a key, in however many places; `missing` where it gives none."""
    found = {key: config.get(key)}
    found |= {f"{style}.{key}": description.get(key) for style, description in given.items()}
    named = {place: checked(value, "float", place) for place, value in found.items() if value is not None}
    if len(set(named.values())) > 1:
        raise ValueError(f"{' and '.join(f'{place}={value}' for place, value in named.items())}: remove all but one")
    return next(iter(named.values()), missing)


def _options(
    style: str, description: Mapping[str, Any], config: Mapping[str, Any], common: Mapping[str, Any], max_positions: int
) -> RopeOptions:
    """The options of one description. An original window that isn't named is the window, as in transformers."""
    kind = description.get("rope_type") or description.get("type") or "default"
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        raise ValueError(f"{style} has type {kind!r}, which isn't supported; known: {', '.join(ROPE_TYPES)}")
    values: dict[str, Any] = dict(common)
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
