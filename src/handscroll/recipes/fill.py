"""What a masked language model takes for hidden: the likeliest tokens at each mask of a text."""

from __future__ import annotations

from typing import NamedTuple

import torch

from handscroll.generation.sentences import framed
from handscroll.model import Layout, Transformer
from handscroll.model.heads import MaskedLmOptions, head_name
from handscroll.text import Tokenizer

# What people write for a hidden token of any model.
MASK = "[MASK]"


class Guess(NamedTuple):
    """A token for a mask; `probability` is its share of the whole vocabulary."""

    id: int
    text: str
    probability: float


def check_fills(model: Transformer, tokenizer: Tokenizer) -> int:
    """The id of the mask. ValueError for a model that wasn't made for masks, or a tokenizer without one."""
    if not isinstance(model.config.head, MaskedLmOptions) or model.config.mask != "bidirectional":
        raise ValueError(
            f"this model fills no masks: its mask is {model.config.mask} and its head {head_name(model.config.head)}; "
            "choose a folder of a ...ForMaskedLM or ...ForPreTraining, such as BERT's"
        )
    mask = tokenizer.role_id("mask")
    if mask is None:
        raise ValueError("this model's tokenizer has no mask: use the tokenizer that the model was trained with")
    return mask


def fill(model: Transformer, tokenizer: Tokenizer, text: str, top: int = 5) -> list[list[Guess]]:
    """The `top` likeliest tokens of each mask, in the order of the text; each mask with all others still hidden.

    The names of control tokens in the text are obeyed, and [MASK] is the mask, whatever its name. Raises
    ValueError where the text has none, or more tokens than the model has positions.
    """
    mask = check_fills(model, tokenizer)
    if not 1 <= top <= model.config.vocab_size:
        raise ValueError(f"top={top}: from 1 to the vocabulary's {model.config.vocab_size}")
    ids = framed(model, tokenizer, _with_mask(tokenizer, text), special=True)
    places = [place for place, id_ in enumerate(ids) if id_ == mask]
    if not places:
        raise ValueError(f"the text has no {MASK}: write {MASK} where a token is to be filled in")
    if len(ids) > model.config.max_positions:
        raise ValueError(
            f"the text has {len(ids)} tokens, and the model {model.config.max_positions} positions: cut it"
        )
    tokens_1T = torch.tensor([ids], device=model.device)
    with torch.inference_mode():
        wanted_1Q = torch.tensor([places], device=model.device)
        hidden = model.hidden(tokens_1T, Layout.rows([len(ids)], device=model.device), wanted_BQ=wanted_1Q)
        best = model.logits(hidden.last_BTE[0]).float().softmax(-1).topk(top)
    return [
        [Guess(id_, tokenizer.decode([id_]).strip(), share) for id_, share in zip(found, shares, strict=True)]
        for found, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def filled(tokenizer: Tokenizer, text: str, guesses: list[list[Guess]]) -> str:
    """The text with the likeliest token in the place of each mask; a part of a word joins the one before it."""
    name, text = _mask_name(tokenizer), _with_mask(tokenizer, text)
    for best, *_ in guesses:
        before, _, after = text.partition(name)
        is_part = best.text.startswith("##")
        text = (before.rstrip() if is_part else before) + best.text.removeprefix("##") + after
    return text


def _with_mask(tokenizer: Tokenizer, text: str) -> str:
    return text.replace(MASK, _mask_name(tokenizer))


def _mask_name(tokenizer: Tokenizer) -> str:
    mask = tokenizer.role_id("mask")
    assert mask is not None
    return tokenizer.decode([mask])
