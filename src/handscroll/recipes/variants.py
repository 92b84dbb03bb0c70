"""Variants of a recipe for a comparison: which there are, what they are called, and that each is a valid recipe.

A choice is one key with its values; variants are the cross product of choices, or the recipe with one key changed at a
time. All have one budget: where a variant's windows are longer or its steps larger it takes fewer of them.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handscroll.model.checkpoint import read_config, resolve
from handscroll.recipes.model_section import NewModel
from handscroll.recipes.reading import Source, read_recipe
from handscroll.recipes.schema import Recipe
from handscroll.recipes.values import parse_value

# What the recipe is called among its variants, and how long a name may be.
UNCHANGED, LONGEST_NAME = "recipe", 80
BRACKETS = {"]": "[", "}": "{"}
FIXED = {
    "out": "--out names the folder of the comparison, and each variant has its own below it",
    "data": "all variants train on the same data in the same order; give it behind the recipe",
    "train.seed": "all variants have the same seeds; --seeds 0,1 repeats each of them",
    "train.steps": "all variants have one budget; give train.steps=N behind the recipe",
    "train.epochs": "all variants have one budget; give train.steps=N behind the recipe",
    "evaluation.patience": "all variants spend their whole budget",
}


@dataclass(frozen=True)
class Choice:
    """A key of the recipe and the values to give it, as they were written."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Variant:
    """A checked recipe that differs from the one given by `changes`, keys with their values as they were written."""

    name: str
    changes: Mapping[str, str]
    recipe: Recipe


def parse_choice(text: str) -> Choice:
    """ "model.heads=2,4" as a choice. Commas within brackets or quotes don't part values."""
    key, sign, rest = text.partition("=")
    key = key.strip()
    if not sign or not all(key.split(".")):
        raise ValueError(f"--vary {text}: write KEY=VALUE,VALUE,..., such as model.heads=2,4")
    for fixed, reason in FIXED.items():
        if _overlap(key, fixed):
            raise ValueError(f"--vary {key}: {fixed} can't vary, {reason}")
    values = tuple(_split(text, rest))
    if "" in values:
        raise ValueError(f"--vary {text}: a value is empty; write null for the default")
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"--vary {text}: {twice[0]} is given twice")
    return Choice(key, values)


def make_variants(
    source: Source, choices: Sequence[Choice], *, overrides: Sequence[str] = (), each: bool = False
) -> list[Variant]:
    """All variants, checked. With `each` the recipe itself comes first and every other changes one key of it.

    Raises ValueError that names the variant whose recipe isn't valid, and where two variants are the same run.
    """
    _check_keys(choices, overrides)
    base = read_recipe(source, overrides)
    if base.train.steps is None:
        raise ValueError(
            f"train.epochs={base.train.epochs:g}: a comparison has its budget in steps, so give train.epochs=null "
            "train.steps=N; `handscroll train RECIPE --dry-run` says how many an epoch has"
        )
    if base.evaluation is not None and base.evaluation.patience is not None:
        raise ValueError(
            f"evaluation.patience={base.evaluation.patience} could end a variant before its budget is spent: "
            "give evaluation.patience=null"
        )
    budget = base.train.steps * tokens_per_step(base)
    short = _short_keys([choice.key for choice in choices])
    variants: list[Variant] = []
    for changes in _combinations(choices, each):
        name = ", ".join(f"{short[key]}={_short_value(value)}" for key, value in changes.items()) or UNCHANGED
        # A section before its keys, whatever the order on the command line.
        made = [f"{key}={changes[key]}" for key in sorted(changes, key=lambda key: key.count("."))]
        try:
            recipe = read_recipe(source, [*overrides, *made])
            steps = max(1, round(budget / tokens_per_step(recipe)))
            recipe = read_recipe(recipe, [f"train.steps={steps}"])
        except ValueError as error:
            raise ValueError(f"variant {name}: {error}") from error
        same = next((other for other in variants if other.recipe == recipe), None)
        if same is None:
            variants.append(Variant(name, changes, recipe))
        elif not (each and same.name == UNCHANGED):
            raise ValueError(f"the variants {same.name} and {name} are the same run: leave out one of them")
    return variants


def tokens_per_step(recipe: Recipe) -> int:
    """Tokens of the windows of one step, padding included."""
    model = recipe.model
    if recipe.train.window is not None:
        window = recipe.train.window
    elif isinstance(model, NewModel):
        window = model.window
    elif model.stretch is not None:
        window = model.stretch.to
    else:
        window = read_config(resolve(model.source))[1].max_positions
    return recipe.train.windows_per_step * window


def folder_name(name: str) -> str:
    """A variant's name as that of a folder."""
    return re.sub(r"[^\w.=+-]+", "-", name).strip("-.")[:LONGEST_NAME] or UNCHANGED


def _combinations(choices: Sequence[Choice], each: bool) -> Iterator[dict[str, str]]:
    if each:
        yield {}
        yield from ({choice.key: value} for choice in choices for value in choice.values)
        return
    keys = [choice.key for choice in choices]
    for values in itertools.product(*(choice.values for choice in choices)):
        yield dict(zip(keys, values, strict=True))


def _check_keys(choices: Sequence[Choice], overrides: Sequence[str]) -> None:
    """Nothing that is given may be lost, because something else replaces it."""
    twice = [key for key, count in Counter(choice.key for choice in choices).items() if count > 1]
    if twice:
        raise ValueError(f"--vary {twice[0]} is given twice: put all its values into one")
    for choice, override in itertools.product(choices, overrides):
        key = override.partition("=")[0]
        if key == choice.key or key.startswith(f"{choice.key}."):
            raise ValueError(f"{override} would be lost, as --vary {choice.key} replaces it: put it into its values")


def _overlap(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def _split(text: str, values: str) -> Iterator[str]:
    opened: list[str] = []
    quote, start = "", 0
    for place, character in enumerate(values):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            opened.append(character)
        elif character in BRACKETS:
            if not opened or opened.pop() != BRACKETS[character]:
                raise ValueError(f"--vary {text}: {character} closes nothing that is open")
        elif character == "," and not opened:
            yield values[start:place].strip()
            start = place + 1
    if opened or quote:
        raise ValueError(f"--vary {text}: {(quote or opened[-1])} is never closed")
    yield values[start:].strip()


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Each key's last part, where no other has the same."""
    counts = Counter(key.rpartition(".")[2] for key in keys)
    return {key: last if counts[last := key.rpartition(".")[2]] == 1 else key for key in keys}


def _short_value(text: str) -> str:
    """A section that says no more than its name or its `from` is called by that."""
    value: Any = parse_value(text)
    if isinstance(value, dict) and len(value) == 1 and (only := next(iter(value))) in ("name", "from"):
        return str(value[only])
    return text
