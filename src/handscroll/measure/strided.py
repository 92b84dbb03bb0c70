"""Likelihood in windows that move on by a stride: what a model that reads no further makes of a long text.

Each window is read anew; of its tokens those count that no window before it had, so that every token but the first is
predicted once, from at least window - stride tokens before it (but for the first window's). A stride as long as the
window is the cheapest and the hardest: then the first token of each window is predicted by nothing, and not counted.
The way of Hugging Face's guide to perplexity (https://huggingface.co/docs/transformers/perplexity).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from handscroll.generation import read
from handscroll.kvcache import Policy
from handscroll.measure.likelihood import PositionBuckets, PositionCurve, token_nll
from handscroll.model import Cache, Transformer


class Window(NamedTuple):
    """Reads the tokens `first` to `last`, of which those from `counted` on are predicted and counted."""

    first: int
    counted: int
    last: int


class Strided(NamedTuple):
    """A window was read into `cache`; `curve` is what has been counted of the text so far, `tokens` long."""

    tokens: int
    window: Window
    cache: Cache
    curve: PositionCurve


def windows(total: int, window: int, stride: int) -> list[Window]:
    """The windows over a text of `total` tokens. ValueError for a stride that leaves tokens out."""
    if window < 2:
        raise ValueError(f"window={window}: at least 2 tokens, one to predict from and one to predict")
    if not 1 <= stride <= window:
        raise ValueError(f"stride={stride}: a window of {window} tokens moves on by 1 to {window}")
    found, end = [], 0
    for first in range(0, total, stride):
        last = min(first + window, total)
        found.append(Window(first, max(end, first + 1), last))
        end = last
        if last == total:
            break
    return found


def read_strided(
    model: Transformer, ids: Sequence[int], policy: Policy, window: int, stride: int, breaks: Sequence[int] = ()
) -> Iterator[Strided]:
    """Reads `ids` window by window, each into a new cache."""
    buckets = PositionBuckets(len(ids))
    for span in windows(len(ids), window, stride):
        cache, at = policy.start(model.config, model.position, 1), span.first
        for progress in read(model, [ids[span.first : span.last]], cache, breaks=breaks):
            hidden_TE = progress.hidden_BTE[0]
            # The state at a token predicts the next one; the last one's next belongs to another window.
            begin, end = max(span.counted - 1, at), min(at + len(hidden_TE), span.last - 1)
            if begin < end:
                targets_T = torch.tensor(list(ids[begin + 1 : end + 1]))
                buckets.add(token_nll(model, hidden_TE[begin - at : end - at], targets_T), begin + 1)
            at += len(hidden_TE)
        yield Strided(span.last, span, cache, buckets.curve(span.last))
