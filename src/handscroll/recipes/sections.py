"""What every section of a recipe is, and sections made from a room's own frozen options.

So a recipe and the room that it speaks of can't drift apart. Knows dataclasses and pydantic, and no section by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model


class Section(BaseModel):
    """Some keys that belong together; a key that isn't one of them is refused. Frozen."""

    # strict: a number in quotes is a mistake, and true is no number. Sections are read as JSON, where that is possible.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Named(Section):
    """The options of one entry of a room's dict, `name` being its key there."""

    name: str


AnySection = TypeVar("AnySection", bound=Section)


def named_sections(kinds: Mapping[str, type], without: Sequence[str] = ()) -> dict[str, type[Named]]:
    """A section for each entry of a room's dict of options, `without` those that a recipe says elsewhere."""
    return {name: section_of(kind, Named, without=without, name=(Literal[name], name)) for name, kind in kinds.items()}


def section_of(
    options: type, base: type[AnySection], *, defaults: Any = None, without: Sequence[str] = (), **keys: Any
) -> type[AnySection]:
    """A section with the fields of frozen options; no number may be negative. `defaults` are options, or their own."""
    hints = get_type_hints(options)
    for each in fields(options):
        if each.name in without:
            continue
        kind, default = hints[each.name], each.default
        if defaults is not None:
            default = getattr(defaults, each.name)
        elif each.default_factory is not MISSING:
            default = each.default_factory()
        elif default is MISSING:
            default = ...
        if isinstance(kind, type) and is_dataclass(kind):
            kind = section_of(kind, Section, defaults=default)
            default = kind()
        keys[each.name] = (Annotated[kind, Field(ge=0)] if kind in (int, float) else kind, default)
    return create_model(options.__name__, __base__=base, **keys)


def options_of(section: Section, options: Callable[..., Any], **others: Any) -> Any:
    """The frozen options that a section made by `section_of` stands for; `others` are those that it is without."""
    values = {key: getattr(section, key) for key in type(section).model_fields if key != "name"}
    for key, value in values.items():
        if isinstance(value, Section):
            values[key] = options_of(value, get_type_hints(options)[key])
    return options(**values, **others)
