"""Where every token of a batch stands: built once per forward, handed to every slot, never changed.

Lengths are per row everywhere. `index_BT` alone decides what comes before what; `positions_BTP` is only what position
encodings see, so a policy may move a key without making it visible earlier or later.

Letters: B batch, T tokens, Q tokens that are picked of a row, S keys, P position axes, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Capture(NamedTuple):
    """What a forward returns besides its last hidden states."""

    weights: bool = False
    layers: bool = False


@dataclass(frozen=True)
class Layout:
    """The place of each token. `index_BT` is -1 at padding; `document_BT` keeps packed documents apart.

    `starts` and `lengths` (one per row) are known on the host when each row is one contiguous run of real tokens,
    padded on the right; a cache needs them. They are None for packed training windows, which no cache takes.
    `totals` (one per row): the length of each row's text where it is known that more of it follows.
    `prefix_BT`, (B, 1) or (B, T): under a prefix mask the index before which all tokens of a token's document are seen;
    None: there is no prefix. `kinds_BT`, `tasks_BT`: the segment and the task of each token; None: all are the first.
    `ends_BT` (on the host) is True at a token that ends a sentence or a paragraph; None where nobody said.
    """

    index_BT: Tensor
    positions_BTP: Tensor
    document_BT: Tensor | None = None
    capture: Capture = Capture()
    starts: tuple[int, ...] | None = None
    lengths: tuple[int, ...] | None = None
    totals: tuple[int, ...] | None = None
    ends_BT: Tensor | None = None
    prefix_BT: Tensor | None = None
    kinds_BT: Tensor | None = None
    tasks_BT: Tensor | None = None

    @classmethod
    def rows(
        cls,
        lengths: Sequence[int],
        starts: Sequence[int] | None = None,
        *,
        size: int | None = None,
        totals: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
        capture: Capture = Capture(),
        ends_BT: Tensor | None = None,
    ) -> Layout:
        """Rows of `lengths[b]` real tokens that continue a sequence at `starts[b]` (0), right-padded to `size`.

        `totals[b]` tells the length of a text that is read in several forwards.
        """
        starts = tuple(starts) if starts is not None else (0,) * len(lengths)
        size = max(lengths) if size is None else size
        offsets_T = torch.arange(size, device=device)
        if len(set(lengths)) == len(set(starts)) == 1 and lengths[0] == size:
            index_BT = (offsets_T + starts[0]).expand(len(lengths), size)
        else:
            starts_B = torch.tensor(starts, device=device)
            lengths_B = torch.tensor(tuple(lengths), device=device)
            index_BT = starts_B[:, None] + offsets_T
            index_BT = index_BT.masked_fill(offsets_T >= lengths_B[:, None], -1)
        positions_BTP = index_BT.clamp(min=0)[..., None]
        told = tuple(totals) if totals is not None else None
        return cls(index_BT, positions_BTP, None, capture, starts, tuple(lengths), told, ends_BT)

    @classmethod
    def packed(cls, index_BT: Tensor, positions_BT: Tensor, document_BT: Tensor) -> Layout:
        """Windows that hold several documents each; padding has index -1."""
        return cls(index_BT, positions_BT[..., None], document_BT)

    @cached_property
    def is_uniform(self) -> bool:
        """Every row is full and starts at the same index: no mask but the causal one is needed."""
        starts, lengths = self.starts, self.lengths
        return (
            starts is not None
            and lengths is not None
            and len(set(starts)) == 1
            and all(length == self.index_BT.shape[1] for length in lengths)
        )

    @cached_property
    def stands_alike(self) -> bool:
        """Whether one row's positions are those of all: plain rows from the same index on, none of which was moved."""
        positions_BTP = self.positions_BTP
        is_plain = self.is_uniform and positions_BTP.shape[-1] == 1
        return is_plain and (len(positions_BTP) == 1 or bool((positions_BTP == positions_BTP[:1]).all()))

    def axis(self, number: int) -> Tensor:
        """(B, T): one axis of all positions; 0 in one that the layout doesn't have, as in a text without spans."""
        if number < self.positions_BTP.shape[-1]:
            return self.positions_BTP[..., number]
        return torch.zeros_like(self.index_BT)

    @property
    def row_positions(self) -> Tensor:
        """(T,) where rows stand alike, else (B, T): the first axis of all positions."""
        return self.axis(0)[0] if self.stands_alike else self.axis(0)

    def mask(self, asking: Layout | None = None, window: int | None = None, kind: str = "causal") -> Tensor | None:
        """Who sees whom within this forward: (B, 1, T, T) boolean, or None where `kind` alone says it all.

        `kind` is a config's `mask`: causal, bidirectional or prefix. With `asking`, places picked from this layout,
        only these look: (B, 1, Q, T). With `window` none looks further.
        """
        if kind == "prefix" and self.prefix_BT is None:
            kind = "causal"
        if window is not None and window >= self.index_BT.shape[1]:
            window = None
        is_plain = self.document_BT is None and self.is_uniform and window is None and kind != "prefix"
        if is_plain and (asking is None or kind == "bidirectional"):
            return None
        return self.seen_by(asking or self, window, kind)[:, None]

    def seen_by(self, asking: Layout, window: int | None, kind: str) -> Tensor:
        """(B, Q, T): which of these tokens those that ask see."""
        prefix_BT = asking.prefix_BT if kind == "prefix" else None
        mask_BQS = visible(asking.index_BT, self.index_BT, window, prefix_BT, ahead=kind == "bidirectional")
        if asking.document_BT is not None and self.document_BT is not None:
            mask_BQS &= asking.document_BT[:, :, None] == self.document_BT[:, None, :]
        return mask_BQS

    def text_lengths(self, asking: Layout | None = None) -> Tensor:
        """Tokens of the text that each token stands in: (B, 1) for rows, (B, T) for packed documents.

        A text is as long as what has been read of it when this forward ends, or as `totals` say. With `asking`, places
        picked from this layout, those of these: (B, 1) or (B, Q).
        """
        if self.starts is not None and self.lengths is not None:
            ends = [start + length for start, length in zip(self.starts, self.lengths, strict=True)]
            longest = map(max, ends, self.totals or ends)
            return torch.tensor(list(longest), device=self.index_BT.device)[:, None]
        document_BT, asking_BQ = (
            torch.zeros_like(layout.index_BT) if layout.document_BT is None else layout.document_BT + 1
            for layout in (self, asking or self)
        )
        ends_BT = self.positions_BTP[..., 0] + 1
        longest_BN = ends_BT.new_zeros(len(ends_BT), int(document_BT.max()) + 1)
        return longest_BN.scatter_reduce(1, document_BT, ends_BT, "amax").gather(1, asking_BQ)

    def pick(self, wanted_BQ: Tensor) -> Layout:
        """Where the tokens at these places of each row stand."""
        document_BQ = None if self.document_BT is None else self.document_BT.gather(1, wanted_BQ)
        positions_BQP = pick(self.positions_BTP, wanted_BQ)
        index_BQ = self.index_BT.gather(1, wanted_BQ)
        prefix_BQ, kinds_BQ, tasks_BQ = (
            None if x_BT is None else x_BT.expand_as(self.index_BT).gather(1, wanted_BQ)
            for x_BT in (self.prefix_BT, self.kinds_BT, self.tasks_BT)
        )
        return Layout(
            index_BQ,
            positions_BQP,
            document_BQ,
            self.capture,
            prefix_BT=prefix_BQ,
            kinds_BT=kinds_BQ,
            tasks_BT=tasks_BQ,
        )

    def part(self, span: slice) -> Layout:
        """Where some tokens in a row stand, in every row the same ones."""
        document_BT, prefix_BT, kinds_BT = (
            None if x_BT is None else x_BT.expand_as(self.index_BT)[:, span]
            for x_BT in (self.document_BT, self.prefix_BT, self.kinds_BT)
        )
        index_BT, positions_BTP = self.index_BT[:, span], self.positions_BTP[:, span]
        return Layout(index_BT, positions_BTP, document_BT, self.capture, prefix_BT=prefix_BT, kinds_BT=kinds_BT)


class Asking(NamedTuple):
    """The places of each row (B, Q) whose hidden states are wanted, and the layout of these alone."""

    places_BQ: Tensor
    layout: Layout


def pick(x_BTF: Tensor, wanted_BQ: Tensor) -> Tensor:
    """(B, Q, F): the features at these places of each row."""
    return x_BTF.gather(1, wanted_BQ[..., None].expand(-1, -1, x_BTF.shape[-1]))


def visible(
    query_index_BT: Tensor,
    key_index_BS: Tensor,
    window: int | None = None,
    prefix_BT: Tensor | None = None,
    *,
    ahead: bool = False,
) -> Tensor:
    """(B, T, S): a query sees real keys that are not after it; with `window` itself and the `window` - 1 before it.

    With `prefix_BT` also those before that index; with `ahead` those after it, as far as those before it.
    Padding queries see every key: their output is never read, and a softmax over nothing would spread NaN.
    """
    query_BT1, key_B1S = query_index_BT[:, :, None], key_index_BS[:, None, :]
    seen_BTS = key_B1S >= 0 if ahead else key_B1S <= query_BT1
    if prefix_BT is not None:
        seen_BTS = seen_BTS | (key_B1S < prefix_BT[:, :, None])
    seen_BTS = seen_BTS & (key_B1S >= 0)
    if window is not None:
        seen_BTS = seen_BTS & ((query_BT1 - key_B1S).abs() < window)
    return seen_BTS | (query_BT1 < 0)
