"""One vector for a text of many tokens: the ways of choosing or averaging its hidden states.

Letters: B batch, T tokens, E model width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from handscroll.model.layout import Layout

POOLINGS = ("first", "mean", "last")


def pool(hidden_BTE: Tensor, layout: Layout, pooling: str) -> Tensor:
    """(B, T, E) -> (B, E) over each row's real tokens: the first, the last, or the mean of all, in the order of index.

    A row without a real token gives zeros by mean, and else what stands at its first place. ValueError for another way.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling={pooling!r} is not known; known: {', '.join(POOLINGS)}")
    is_real_BT = layout.index_BT >= 0
    if pooling == "mean":
        # Selected, not multiplied: padding may hold anything.
        real_BTE = torch.where(is_real_BT[..., None], hidden_BTE, 0)
        return real_BTE.sum(1) / is_real_BT.sum(1, keepdim=True).clamp(min=1).to(hidden_BTE.dtype)
    if pooling == "last":
        place_B = layout.index_BT.argmax(1)
    else:
        place_B = layout.index_BT.masked_fill(~is_real_BT, torch.iinfo(layout.index_BT.dtype).max).argmin(1)
    return hidden_BTE[torch.arange(len(place_B), device=place_B.device), place_B]
