"""Recipes from YAML, with `key.sub=value` overrides, and mistakes in them said in plain words.

Knows YAML, places in a recipe and how each kind of mistake is worded. What is allowed stands in `schema.py`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from handscroll.recipes.model_section import FromFolder
from handscroll.recipes.schema import OBJECTIVE_SECTIONS, VARIANTS, Recipe
from handscroll.recipes.sections import Named
from handscroll.recipes.values import Loader, parse_value

Source = str | Path | Mapping[str, Any] | Recipe

# How alike two keys must be; in another section they must be nearly the same.
SUGGESTION_CUTOFF, ELSEWHERE_CUTOFF = 0.6, 0.8


def read_recipe(source: Source, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file, a mapping or another recipe, changed by `key.sub=value` overrides.

    Raises ValueError with one line per mistake, FileNotFoundError for a file that isn't there.
    """
    if isinstance(source, Recipe):
        content, origin = source.model_dump(mode="json", by_alias=True, exclude_none=True), "recipe"
    elif isinstance(source, Mapping):
        content, origin = json.loads(json.dumps(dict(source), default=str)), "recipe"
    else:
        content, origin = _read_yaml(Path(source)), str(source)
    for override in overrides:
        _name_objective(content)
        _override(content, override)
    _name_objective(content)
    try:
        return Recipe.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise ValueError("\n".join(f"{origin}: {mistake}" for mistake in _mistakes(error))) from None


def read_objective(name: str, options: Mapping[str, Any]) -> Named:
    """The section of an objective, apart from any recipe. ValueError for an unknown one, or an option it hasn't."""
    if name not in OBJECTIVE_SECTIONS:
        raise ValueError(f"objective {name} is unknown{_nearest(name, ', '.join(OBJECTIVE_SECTIONS))}")
    try:
        return OBJECTIVE_SECTIONS[name].model_validate_json(json.dumps({**options, "name": name}, default=str))
    except ValidationError as error:
        raise ValueError("\n".join(_mistakes(error, ("objective", name)))) from None


def to_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out; `read_recipe` gives it back."""
    content = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: give the path of a recipe, such as examples/pretrain.yaml")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: a recipe is a YAML file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise ValueError(f"{path}:{place} not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ValueError(f"{path} holds {found}: a recipe has sections such as model, data, train and out")
    return content


def _override(content: dict[str, Any], override: str) -> None:
    """Sets one value (mutates `content`)."""
    place, sign, text = override.partition("=")
    if not sign or not all(place.split(".")):
        raise ValueError(f"{override!r} is no override: write key.sub=value, such as optimizer.learning_rate=0.01")
    *sections, key = place.split(".")
    for section in sections:
        inner = content.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{override}: {section} is {inner!r} and has no keys of its own")
        content = inner
    content[key] = parse_value(text)


def _name_objective(content: dict[str, Any]) -> None:
    """A bare name stands for the objective with its defaults (mutates `content`)."""
    if isinstance(content.get("objective"), str):
        content["objective"] = {"name": content["objective"]}


def _mistakes(error: ValidationError, outer: tuple[str, ...] = ()) -> Iterator[str]:
    for each in error.errors(include_url=False):
        place, sections = _place((*outer, *each["loc"]))
        yield _worded(each["type"], ".".join(place), each.get("input"), each.get("ctx") or {}, sections)


def _place(loc: Sequence[int | str]) -> tuple[list[str], type[BaseModel]]:
    """The keys as the recipe has them, without the names of kinds, and the section that the last of them stands in."""
    place: list[str] = []
    section: type[BaseModel] = Recipe
    parts = [str(part) for part in loc]
    for number, part in enumerate(parts):
        is_kind = number == 1 and part in VARIANTS.get(parts[0], {})
        if is_kind:
            section = VARIANTS[parts[0]][part]
            continue
        place.append(part)
        if number < len(parts) - 1:
            section = _inside(section, part) or section
    return place, section


def _inside(section: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The one section that stands under a key; its name or its alias."""
    field = next((each for name, each in section.model_fields.items() if key in (name, each.alias)), None)
    found = _sections(field.annotation) if field is not None else []
    return found[0] if len(found) == 1 else None


def _sections(kind: Any) -> list[type[BaseModel]]:
    """The sections that a key may hold: itself, one of several, or those of a list."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [section for inner in get_args(kind) for section in _sections(inner)]


def _worded(kind: str, place: str, given: Any, limits: Mapping[str, Any], section: type[BaseModel]) -> str:
    shown = f"{place}={_short(given)}"
    if kind == "extra_forbidden":
        return f"{place} {_unknown(place, section)}"
    if kind == "missing":
        return f"{place} is missing: a recipe must give it"
    if kind == "value_error":
        return f"{place}: {limits['error']}" if place else str(limits["error"])
    if kind == "union_tag_invalid":
        known = limits["expected_tags"].replace("'", "")
        return f"{place}.name={limits['tag']} is unknown{_nearest(limits['tag'], known)}"
    if kind == "literal_error":
        known = limits["expected"].replace("'", "").replace(" or ", ", ")
        return f"{shown} is unknown{_nearest(str(given), known)}"
    if "min_length" in limits:
        return f"{shown}: it must not be empty"
    for limit, words in (("ge", "at least"), ("gt", "more than"), ("lt", "less than"), ("le", "at most")):
        if limit in limits:
            return f"{shown}: it must be {words} {limits[limit]:g}"
    wanted = next((words for start, words in WANTED.items() if kind.startswith(start)), None)
    return f"{shown}: it must be {wanted}" if wanted else f"{shown} can't be used here"


# What pydantic's kinds of type errors ask for; the first that matches counts.
WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list, such as [a, b]",
    "union_tag_not_found": "a section with keys of its own",
    "model": "a section with keys of its own",
}


def _unknown(place: str, section: type[BaseModel]) -> str:
    """What to write instead: a key of the same section that is spelt alike, or one of the same name elsewhere."""
    *outer, key = place.split(".")
    known = [_key(name, field) for name, field in section.model_fields.items()]
    near = difflib.get_close_matches(key, known, 1, SUGGESTION_CUTOFF)
    if near:
        return f"is not a key of a recipe; did you mean {'.'.join([*outer, near[0]])}?"
    if issubclass(section, FromFolder):
        return f"can't stand beside {'.'.join(outer)}.from: that folder says it"
    others = VARIANTS.get(outer[0], {}) if len(outer) == 1 else {}
    owners = [name for name, kind in others.items() if key in kind.model_fields and "name" in kind.model_fields]
    if owners:
        return f"is an option of {outer[0]}.name={' or '.join(owners)}: choose that, or leave it out"
    elsewhere: dict[str, str] = {}
    for path in _all_keys():
        elsewhere.setdefault(path.split(".")[-1], path)
    near = difflib.get_close_matches(key, elsewhere, 1, ELSEWHERE_CUTOFF)
    if near and elsewhere[near[0]] != place:
        return f"is not a key of a recipe; did you mean {elsewhere[near[0]]}?"
    where = f"known in {'.'.join(outer)}" if outer else "known"
    return f"is not a key of a recipe; {where} are {', '.join(known)}"


def _nearest(value: str, known: str) -> str:
    near = difflib.get_close_matches(value, known.split(", "), 1, SUGGESTION_CUTOFF)
    return f"; did you mean {near[0]}? Known are {known}" if near else f"; known are {known}"


def _all_keys() -> Iterator[str]:
    """Every key with what it stands in; of one that several places have the outermost comes first."""
    waiting: list[tuple[str, type[BaseModel]]] = [("", Recipe)]
    for prefix, section in waiting:
        for name, field in section.model_fields.items():
            place = f"{prefix}{_key(name, field)}"
            yield place
            kinds = VARIANTS.get(name, {}).values() if section is Recipe else ()
            inner = None if kinds else _inside(section, name)
            waiting += [(f"{place}.", kind) for kind in [*kinds, inner] if kind is not None]


def _key(name: str, field: Any) -> str:
    return field.alias or name


def _short(value: Any) -> str:
    """As the recipe has it; text that could be taken for something else stands in quotes."""
    is_plain = isinstance(value, str) and value and isinstance(parse_value(value), str)
    text = str(value) if is_plain else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
