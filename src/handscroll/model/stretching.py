"""A model under a longer window: the same weights, other positions.

Knows by which methods a window is stretched and what each needs to be told. Leaves how a method turns positions to
`position/`, and what config.json says of it to `families/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from handscroll.model.config import ModelConfig, chosen
from handscroll.model.families.values import checked
from handscroll.model.position import (
    POSITION_KINDS,
    AlibiOptions,
    DynamicAlibiOptions,
    DynamicOptions,
    LongRopeOptions,
)
from handscroll.model.position.options import StretchedOptions
from handscroll.model.slots import PositionOptions, RopeOptions
from handscroll.model.transformer import Transformer

STRETCHED = ("linear", "ntk", "dynamic", "yarn", "llama3", "longrope", "dynamic_alibi")
METHODS: dict[str, type[PositionOptions]] = {
    **{name: POSITION_KINDS[name] for name in STRETCHED},
    # Only a longer window, to compare with.
    "none": PositionOptions,
}
# Their stretch follows each text's own length, from the trained window on, which therefore stays what it is.
BY_LENGTH = (DynamicOptions, DynamicAlibiOptions)
# What isn't said, where a method has no default of its own: dynamic NTK as in the paper, Llama 3.1's numbers.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "dynamic": {"factor": 1.0},
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
# They follow from the model.
DERIVED = ("theta", "pairing", "share", "original_max_positions")


def stretch(config: ModelConfig, method: str, to: int, options: Mapping[str, Any] | None = None) -> ModelConfig:
    """The config of the same weights with a window of `to` tokens. `options` are the method's; factor = to / window.

    Dynamic NTK and dynamic ALiBi stretch from the trained window on, as far as a text is long: `max_positions` stays
    as it is. Raises ValueError for a window that isn't longer, for unknown methods and options, for a method that is
    for other positions than the model's, and for a stretched model.
    """
    kind = chosen("method", method, METHODS)
    options = options or {}
    plain = type(config.position)
    if not issubclass(plain, RopeOptions | AlibiOptions):
        raise ValueError(
            f"the model's positions ({type(config.position).__name__.removesuffix('Options').lower()}) can't be "
            "stretched: only rotary ones and ALiBi can"
        )
    if plain not in (RopeOptions, AlibiOptions):
        before = next(name for name, each in METHODS.items() if each is type(config.position))
        factor = getattr(config.position, "factor", None)
        raise ValueError(
            f"the model's positions are stretched already ({before}{f', factor {factor:g}' if factor else ''}): "
            "extend the model that it was made from"
        )
    if to <= config.max_positions:
        raise ValueError(f"to={to} is not longer than the model's window, {config.max_positions}: give a longer one")
    if method == "none":
        kind = plain
    if not issubclass(kind, plain):
        fitting = ", ".join(name for name, each in METHODS.items() if issubclass(each, plain) or name == "none")
        what = "ALiBi, which turns nothing" if plain is AlibiOptions else "rotary positions"
        raise ValueError(f"method={method!r} is not for a model with {what}: choose one of {fitting}")
    values: dict[str, Any] = {"original_max_positions": config.max_positions}
    if isinstance(config.position, RopeOptions):
        values |= {each.name: getattr(config.position, each.name) for each in fields(RopeOptions)}
    if issubclass(kind, StretchedOptions):
        values["factor"] = to / config.max_positions
    values |= {**PRESETS.get(method, {}), **_checked(method, kind, options)}
    names = [each.name for each in fields(kind)]
    if kind is LongRopeOptions and not {"short_factor", "long_factor"} <= values.keys():
        assert isinstance(config.position, RopeOptions)
        pairs = config.position.turned(config.head_width) // 2
        raise ValueError(
            f"longrope needs short_factor and long_factor, {pairs} numbers each, found by search "
            "(arXiv 2402.13753): give both, or choose another method"
        )
    position = kind(**{name: values[name] for name in names if name in values})
    return replace(config, position=position, max_positions=config.max_positions if kind in BY_LENGTH else to)


def with_config(model: Transformer, config: ModelConfig) -> Transformer:
    """The same weights, shared and not copied, under a config that differs in positions, window and dropouts."""
    with torch.device("meta"):
        stretched = Transformer(config, seed=None)
    stretched.load_state_dict(model.state_dict(), assign=True)
    stretched.source = model.source
    return stretched


def _checked(method: str, kind: type[PositionOptions], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the fields that they become."""
    types = {each.name: str(each.type) for each in fields(kind) if each.name not in DERIVED}
    for name in options:
        if name not in types:
            raise ValueError(f"{method} has no option {name!r}: known are {', '.join(types) or 'none'}")
    return {name: checked(value, types[name], name) for name, value in options.items()}
