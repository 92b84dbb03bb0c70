"""Options of a slot's variants as YAML and JSON say them, both ways: a bare name, or {"kind": name, option: value}.

Knows frozen dataclasses and their type hints, and no variant by name: each slot hands in its own dict of kinds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

Options = TypeVar("Options")


def read_options(value: Any, kinds: Mapping[str, type[Options]], slot: str) -> Options:
    """The options that a value names. ValueError for an unknown kind or option, a missing one, and a wrong type."""
    named = {"kind": value} if isinstance(value, str) else value
    name = named.get("kind") if isinstance(named, Mapping) else None
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(f"{slot}={value!r} is not known; known: {', '.join(kinds)}, or {{kind: one of them, ...}}")
    kind = kinds[name]
    given = {key: each for key, each in named.items() if key != "kind"}
    known: list[Any] = list(fields(kind))  # type: ignore[arg-type]
    names = [each.name for each in known]
    for key in given:
        if key not in names:
            raise ValueError(f"{slot} {name} has no option {key!r}: known are {', '.join(names) or 'none'}")
    for each in known:
        if each.default is each.default_factory is MISSING and each.name not in given:
            raise ValueError(f"{slot} {name} needs {each.name}: give {{kind: {name}, {each.name}: ...}}")
    hints = get_type_hints(kind)
    return kind(**{key: validated(each, hints[key], f"{slot}.{key}") for key, each in given.items()})


def describe_options(options: Any, kinds: Mapping[str, type[Any]]) -> dict[str, Any]:
    """What `read_options` takes, every option named."""
    name = next(name for name, kind in kinds.items() if kind is type(options))
    return {"kind": name} | asdict(options)


def validated(value: Any, hint: Any, what: str) -> Any:
    """A JSON value as the type of a field, lists for tuples; nothing else is converted. ValueError names `what`."""
    try:
        return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        said = f"give a list, such as [{value}]" if first["type"] == "tuple_type" else first["msg"]
        raise ValueError(f"{what}={value!r}: {said}") from error
