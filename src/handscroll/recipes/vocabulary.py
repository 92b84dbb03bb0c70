"""The tokenizer of a training recipe, and the objective that has to know its control tokens.

A tokenizer is named, or the model's own, or learnt from the recipe's data with the control tokens that the objective
needs. Knows where each comes from, for errors that say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from handscroll.model.checkpoint import resolve
from handscroll.recipes.data import Watch, read_plainly, unwatched
from handscroll.recipes.folders import allow_length
from handscroll.recipes.model_section import FromFolder, FromModel, NewModel
from handscroll.recipes.schema import Data, NewTokenizer, Recipe
from handscroll.recipes.sections import Named, options_of
from handscroll.text import Tokenizer
from handscroll.text.units import UnitFinder
from handscroll.training import OBJECTIVES, Objective, Vocabulary

TOKENIZER = "tokenizer"


def find_tokenizer(recipe: Recipe, earlier: Path | None, watch: Watch) -> Tokenizer:
    """The one that is named, else the model's own, else one that is learnt from the data (or was, before)."""
    if isinstance(recipe.tokenizer, FromFolder):
        return Tokenizer.load(resolve(recipe.tokenizer.source))
    if isinstance(recipe.model, FromModel):
        if recipe.tokenizer is not None:
            raise ValueError("tokenizer.vocab_size: model.from is given, and its weights know only its own tokenizer")
        tokenizer = Tokenizer.load(resolve(recipe.model.source))
        if recipe.model.stretch is not None:
            allow_length(tokenizer, recipe.model.stretch.to)
        return tokenizer
    if earlier is not None and (earlier / TOKENIZER).is_dir():
        return Tokenizer.load(earlier / TOKENIZER)
    return learn_tokenizer(recipe.tokenizer or NewTokenizer(), recipe.data, recipe.objective.name, watch)


def learn_tokenizer(options: NewTokenizer, data: Data, objective: str, watch: Watch = unwatched) -> Tokenizer:
    """A new one, with the control tokens that the objective needs."""
    texts, roles = read_plainly(data, watch), OBJECTIVES[objective].needs.roles
    return Tokenizer.train(texts, options.vocab_size, kind=options.kind, han=options.han, roles=roles)


def learns_tokenizer(recipe: Recipe) -> bool:
    return isinstance(recipe.model, NewModel) and not isinstance(recipe.tokenizer, FromFolder)


def origin_of(recipe: Recipe) -> str:
    """Where the tokenizer comes from."""
    if isinstance(recipe.tokenizer, FromFolder):
        return recipe.tokenizer.source
    return recipe.model.source if isinstance(recipe.model, FromModel) else str(Path(recipe.out) / TOKENIZER)


def make_objective(section: Named, tokenizer: Tokenizer, origin: str, window: int | None = None) -> Objective:
    """With what it has to know of the window and of the tokenizer, that of `origin`. ValueError for a lacking token."""
    kind = OBJECTIVES[section.name]
    given: dict[str, Any] = {"pad_id": tokenizer.pad_id or 0}
    if kind.needs.roles:
        given["vocabulary"] = Vocabulary.of(tokenizer, kind.needs.roles, section.name, origin)
    if kind.needs.is_bounded:
        given["window"] = window
    return cast(Objective, options_of(section, kind, **given))


def make_finder(section: Named) -> UnitFinder | None:
    """What finds words and entities, for an objective that needs them."""
    if not OBJECTIVES[section.name].needs.units:
        return None
    return UnitFinder.of(getattr(section, "dictionary", None))
