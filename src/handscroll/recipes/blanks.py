"""Blanks in a text filled by a model that was trained to do so, and how such a model continues a text.

A model of mask=prefix reads what it is given in both directions. One whose positions have two axes (GLM, arXiv
2103.10360) is given a text with a mask in the place of each blank, and tells what belongs there, one blank after the
other, the first of the text first; each sees what was told before. It continues a text by filling a blank at its end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from handscroll.generation import BeamSearch, beam_search, read
from handscroll.generation import generate as generate_ids
from handscroll.generation.frames import Blank, Frame
from handscroll.kvcache import Full
from handscroll.model import Transformer
from handscroll.text import Tokenizer
from handscroll.text.roles import ROLES

# The masks that may stand for a blank: of a few tokens, of a sentence, of the rest of a document.
MASKS = ("mask", "sentence_mask", "document_mask")


class Reading(NamedTuple):
    """The tokens that a model reads before it speaks, and how."""

    ids: list[int]
    frame: Frame | None


class Filled(NamedTuple):
    """What a blank holds; `is_whole` unless it was cut off after so many tokens as were allowed."""

    text: str
    tokens: list[int]
    is_whole: bool


def fills_blanks(model: Transformer) -> bool:
    return model.config.mask == "prefix" and model.config.position.axes == 2


def reading(model: Transformer, tokenizer: Tokenizer, ids: Sequence[int]) -> Reading:
    """How a model reads a text that it is to continue. One that fills blanks has met texts without an opening token."""
    if model.config.mask != "prefix":
        return Reading(list(ids), None)
    if not fills_blanks(model):
        return Reading(list(ids), Frame(len(ids)))
    opening = tokenizer.opening_ids
    ids = ids[len(opening) :] if list(ids[: len(opening)]) == opening else ids
    place = len(ids)
    opened = [*ids, _role(tokenizer, "document_mask"), _role(tokenizer, "span_start")]
    return Reading(opened, Frame(place + 1, Blank(place, place + 1)))


def fill_blanks(
    model: Transformer, tokenizer: Tokenizer, text: str, *, max_new_tokens: int = 32, beams: int = 1
) -> list[Filled]:
    """What belongs into each blank of a text, by greedy decoding or beam search. Spaces before a blank belong to it.

    Raises ValueError for a model that fills no blanks, a text without one, and one with more tokens than the model has
    positions.
    """
    if not fills_blanks(model):
        raise ValueError(
            f"this model fills no blanks: its mask is {model.config.mask}, and its positions have "
            f"{model.config.position.axes} axis; choose one that was trained with objective: glm"
        )
    ids, places = with_blanks(tokenizer, text)
    if not places:
        name = _name(tokenizer, "mask")
        raise ValueError(f"the text has no blank: write {name} or [MASK] where something is to be filled in")
    if len(ids) > model.config.max_positions:
        raise ValueError(
            f"the text has {len(ids)} tokens, and the model {model.config.max_positions} positions: cut it"
        )
    start, end = _role(tokenizer, "span_start"), _role(tokenizer, "span_end")
    memory = Full().start(model.config, model.position, 1)
    frames = [Frame(len(ids), Blank(places[0], len(ids)))]
    for _ in read(model, [ids], memory, only_last=True, frames=frames):
        pass
    found = []
    for place in places:
        frame = Frame(len(ids), Blank(place, memory.lengths[0]))
        fork = memory.select([0])
        if beams > 1:
            search = BeamSearch(beams)
            best = beam_search(model, [start], fork, search, max_new_tokens=max_new_tokens, stop_ids=[end], frame=frame)
            told = best[0].tokens
        else:
            emitted = generate_ids(
                model, [[start]], fork, max_new_tokens=max_new_tokens, stop_ids=[end], frames=[frame]
            )
            told = [each.token for each in emitted]
        is_whole = told[-1] == end
        told = told[:-1] if is_whole else told
        for _ in read(model, [[start, *told]], memory, only_last=True, frames=[frame]):
            pass
        found.append(Filled(tokenizer.decode(told), told, is_whole))
    return found


def with_blanks(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The tokens of a text and the places of its masks, which may have any name that vocabularies have for them.

    The names of other control tokens are obeyed, too.
    """
    roles = {name: role for role in MASKS for name in (*ROLES[role], _name(tokenizer, role))}
    pieces = re.split("(" + "|".join(map(re.escape, roles)) + ")", text)
    ids: list[int] = []
    places: list[int] = []
    for number, piece in enumerate(pieces):
        if piece in roles:
            places.append(len(ids))
            ids.append(_role(tokenizer, roles[piece]))
        elif piece:
            ids += tokenizer.encode(piece.rstrip(" ") if number + 1 < len(pieces) else piece, special=True)
    return ids, places


def joined(tokenizer: Tokenizer, text: str, found: Sequence[Filled]) -> str:
    """The text with its blanks filled."""
    ids, places = with_blanks(tokenizer, text)
    for place, each in reversed(list(zip(places, found, strict=True))):
        ids[place : place + 1] = each.tokens
    return tokenizer.decode(ids)


def _role(tokenizer: Tokenizer, role: str) -> int:
    found = tokenizer.role_id(role)
    if found is None:
        raise ValueError(
            f"this model fills blanks, and its tokenizer has no control token for a {role}, such as "
            f"{' or '.join(ROLES[role][:2])}: use the tokenizer that it was trained with"
        )
    return found


def _name(tokenizer: Tokenizer, role: str) -> str:
    return tokenizer.decode([_role(tokenizer, role)])
