"""Perplexity against position: what each next token cost a model, gathered into ranges of positions.

Knows hidden states, targets and where they stand. Leaves reading, and the borders of its chunks, to `reading.py`.

Letters: T tokens, E model width, V vocabulary.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from handscroll.model import Transformer

# At a vocabulary of 4,096 a chunk's logits are 8 MB: they stay in the cache of a processor.
LOGITS_AT_ONCE = 512
FIRST_BORDER = 64
# The mean of fewer tokens than these says little, and would end a curve in a spike.
FEWEST = 32
LINEAR_RANGES = 32


class Range(NamedTuple):
    """Positions start:end and the perplexity of their tokens."""

    start: int
    end: int
    perplexity: float


@dataclass(frozen=True)
class PositionCurve:
    """Sums of negative log-likelihood (nats) and numbers of tokens between `borders`; one border more than ranges."""

    borders: tuple[int, ...]
    nll_sums: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens that were predicted: all that were read but the first."""
        return sum(self.counts)

    @property
    def perplexity(self) -> float | None:
        """exp of the mean negative log-likelihood of all tokens; None where nothing was predicted."""
        return _perplexity(sum(self.nll_sums), self.tokens)

    def ranges(self) -> list[Range]:
        """The ranges in which something was predicted; a last one of few tokens is part of the one before."""
        every = zip(self.borders, self.borders[1:], self.nll_sums, self.counts, strict=False)
        spans = [span for span in every if span[3]]
        if len(spans) > 1 and spans[-1][3] < FEWEST:
            (start, _, nll, count), (_, end, last_nll, last_count) = spans[-2:]
            spans[-2:] = [(start, end, nll + last_nll, count + last_count)]
        return [Range(start, end, math.exp(nll / count)) for start, end, nll, count in spans]

    def doublings(self) -> list[Range]:
        """The same, joined so that each begins about twice as far as the one before: short enough to print."""
        joined: dict[int, tuple[int, int, float, int]] = {}
        spans = zip(self.borders, self.borders[1:], self.nll_sums, self.counts, strict=False)
        for start, end, nll, count in spans:
            if count:
                first, _, nll_sum, counts = joined.get(start.bit_length(), (start, end, 0.0, 0))
                joined[start.bit_length()] = (first, end, nll_sum + nll, counts + count)
        return [Range(start, end, math.exp(nll / count)) for start, end, nll, count in joined.values()]


class PositionBuckets:
    """Gathers a text's likelihoods as they come."""

    def __init__(self, total: int):
        self.borders = bucket_borders(total)
        self._borders_S = torch.tensor(self.borders)
        self._sums_S = torch.zeros(len(self.borders) - 1, dtype=torch.float64)
        self._counts_S = torch.zeros(len(self.borders) - 1, dtype=torch.int64)

    def add(self, nll_T: Tensor, first: int) -> None:
        """Takes what the tokens from position `first` on cost (mutates)."""
        place_T = torch.bucketize(torch.arange(first, first + len(nll_T)), self._borders_S, right=True) - 1
        self._sums_S.index_add_(0, place_T, nll_T.double().cpu())
        self._counts_S.index_add_(0, place_T, torch.ones_like(place_T))

    def curve(self, end: int) -> PositionCurve:
        """What was gathered of the first `end` tokens, as it stands now."""
        used = max(1, bisect_right(self.borders, max(0, end - 1)))
        borders = (*self.borders[:used], max(end, 1))
        return PositionCurve(borders, tuple(self._sums_S[:used].tolist()), tuple(self._counts_S[:used].tolist()))


def bucket_borders(total: int) -> list[int]:
    """0, 64, 128, 256, ... while ranges are shorter than a 32nd of `total`, then ranges of that length, up to `total`.

    Early positions, where a context begins to help, are seen on a logarithmic axis; late ones, where a memory holds or
    fails, keep their detail.
    """
    widest = max(FIRST_BORDER, -(-total // LINEAR_RANGES))
    borders = [0]
    while borders[-1] < total:
        borders.append(min(total, borders[-1] + min(widest, max(FIRST_BORDER, borders[-1]))))
    return borders


def token_nll(model: Transformer, hidden_TE: Tensor, targets_T: Tensor) -> Tensor:
    """-log p(target) in nats (T,) float32, for hidden states of which each predicts its target."""
    return torch.cat([*_pieces(model, hidden_TE, targets_T.to(hidden_TE.device))] or [hidden_TE.new_zeros(0).float()])


def _pieces(model: Transformer, hidden_TE: Tensor, targets_T: Tensor) -> Iterator[Tensor]:
    for first in range(0, len(targets_T), LOGITS_AT_ONCE):
        rows = slice(first, first + LOGITS_AT_ONCE)
        with torch.inference_mode():
            yield F.cross_entropy(model.logits(hidden_TE[rows]).float(), targets_T[rows], reduction="none")


class NextToken:
    """Joins the chunks of one text: the last hidden state of a chunk predicts the first token of the next."""

    def __init__(self, model: Transformer, total: int):
        self.model = model
        self.buckets = PositionBuckets(total)
        self._last_1E: Tensor | None = None

    def add(self, ids: Sequence[int], hidden_TE: Tensor, first: int) -> None:
        """Takes the tokens `ids` from position `first` on and the hidden states that were reached at them (mutates)."""
        targets_T = torch.tensor(list(ids))
        if self._last_1E is None:
            self.buckets.add(token_nll(self.model, hidden_TE[:-1], targets_T[1:]), first + 1)
        else:
            before_TE = torch.cat((self._last_1E, hidden_TE[:-1]))
            self.buckets.add(token_nll(self.model, before_TE, targets_T), first)
        self._last_1E = hidden_TE[-1:].clone()


def token_bytes(text: str, offsets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """(T,): the bytes of UTF-8 that each token stands for, those skipped before it included.

    Of tokens that share a character, its bytes are the first one's.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    sizes = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    before = np.concatenate(([0], np.cumsum(sizes)))
    ends_T = np.maximum.accumulate(before[[end for _, end in offsets]]) if offsets else before[:0]
    return np.diff(ends_T, prepend=0)


def bits_per_byte(nll_sum: float, count: int) -> float | None:
    """Bits that a byte of a text costs, if its tokens cost `nll_sum` nats; None where there is no byte."""
    return nll_sum / math.log(2) / count if count else None


def _perplexity(nll_sum: float, count: int) -> float | None:
    return math.exp(nll_sum / count) if count else None
