"""Values of a config.json, checked as the config fields that they become."""

from __future__ import annotations

from typing import Any

TYPES = {"int": (int,), "float": (int, float), "bool": (bool,)}


def checked(value: Any, kind: str, key: str) -> Any:
    """`value` as the type of a config field: every int is a size; a number in quotes or true for one is a mistake.

    `kind` is the field's type as it is written: "int", "float | None", "tuple[float, ...]".
    """
    if kind == "tuple[float, ...]":
        if not isinstance(value, list | tuple):
            raise ValueError(f"{key}={value!r} is not a list of numbers")
        return tuple(checked(each, "float", f"{key}[{place}]") for place, each in enumerate(value))
    kind = kind.removesuffix(" | None")
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise ValueError(f"{key}={value!r} is not of type {kind}")
    if kind == "int" and value < 1:
        raise ValueError(f"{key}={value!r}: it must be at least 1")
    return float(value) if kind == "float" else value
