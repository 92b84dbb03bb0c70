"""Where tokens stand for a model that reads the beginning of a text in both directions (mask=prefix).

Such a model is given what it goes on from as a prefix, all of which all of it sees. One whose positions have two axes
fills blanks (GLM, arXiv 2103.10360, section 2.1): the first axis of what it tells stays at the blank, the second counts
from the start token on, which stands at 1. Continuing a text is filling a blank at its end.

Letters: B rows, T tokens, P position axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from handscroll.model import Cache, Layout, Transformer


@dataclass(frozen=True)
class Blank:
    """What a row fills: a blank at the index `place`, with the tokens from the index `begins` on, start token first."""

    place: int
    begins: int


@dataclass(frozen=True)
class Frame:
    """How a row is read: its tokens before the index `prefix` see each other; `blank` where positions have two axes."""

    prefix: int
    blank: Blank | None = None


def alike(frame: Frame | None, rows: int) -> list[Frame] | None:
    """The frames of rows that are read in one way."""
    return None if frame is None else [frame] * rows


def framed(layout: Layout, frames: Sequence[Frame]) -> Layout:
    """The layout with each row's prefix and, where rows fill blanks, two position axes."""
    device = layout.index_BT.device
    prefix_B1 = torch.tensor([[frame.prefix] for frame in frames], device=device)
    layout = replace(layout, prefix_BT=prefix_B1)
    blanks = [frame.blank for frame in frames if frame.blank is not None]
    if not blanks:
        return layout
    assert len(blanks) == len(frames), "rows of a model fill blanks or none does"
    place_B1, begins_B1 = torch.tensor([[each.place, each.begins] for each in blanks], device=device)[..., None].unbind(
        1
    )
    index_BT = layout.index_BT.clamp(min=0)
    within_BT = (index_BT - begins_B1 + 1).clamp(min=0)
    positions_BTP = torch.stack((torch.where(within_BT > 0, place_B1, index_BT), within_BT), dim=-1)
    return replace(layout, positions_BTP=positions_BTP)


def usual_frames(model: Transformer, prompts: Sequence[Sequence[int]], cache: Cache) -> list[Frame] | None:
    """Whole prompts as prefixes, as far as nothing was read before them; None for a model that reads one way only.

    ValueError for a model of two axes: its caller has to say which blank is filled.
    """
    if model.config.mask != "prefix":
        return None
    if model.config.position.axes > 1:
        raise ValueError(
            "this model fills blanks and reads no text from left to right: use handscroll generate, ask or fill"
        )
    return [Frame(0 if held else len(prompt)) for held, prompt in zip(cache.lengths, prompts, strict=True)]
