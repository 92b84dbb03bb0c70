"""What one forward pass of training is given: documents packed into windows, and windows collated into a batch.

A `TokenRow` is one document or chat. A window is a sequence of rows that share the model's window without seeing each
other. `collate` turns windows into a `Batch`: tokens, where they stand (`Layout`), and targets already shifted by one.
Which tokens are supervised is decided by the rows' masks; what loss they get is the objective's business.

Letters: B windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handscroll.kernels.likelihood import IGNORE
from handscroll.model import Crossbatch, Layout


class TokenRow(NamedTuple):
    """One document: its token ids, and which of them are supervised (None: all of them).

    `supervised[t]` speaks of token t as something to predict; the first token of a document is never predicted.
    `units`: which tokens belong together, a mark of `text/units/marks.py` each; None: nobody has looked.
    """

    ids: Sequence[int] | NDArray[np.integer]
    supervised: Sequence[bool] | NDArray[np.bool_] | None = None
    units: NDArray[np.uint8] | None = None


Window = Sequence[TokenRow]


@dataclass(frozen=True, eq=False)
class Batch:
    """int64 tokens and targets: what each place tells, or IGNORE where nothing is supervised.

    As collated that is the token after it. `crossbatch`: which tokens look into other windows, and in which layers.
    `labels`: whatever else places tell, by name, (B, T) each with IGNORE where a place tells nothing: a pair's first
    token whether its second text follows. `counts`: for the log, how many of how many were made so.
    """

    tokens_BT: Tensor
    layout: Layout
    targets_BT: Tensor
    crossbatch: Crossbatch | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @cached_property
    def real_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.layout.index_BT >= 0).sum())

    @cached_property
    def supervised_tokens(self) -> int:
        return int((self.targets_BT != IGNORE).sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; itself where it is there already."""
        if self.tokens_BT.device == torch.device(device):
            return self
        layout = self.layout
        values = {each.name: getattr(layout, each.name) for each in fields(layout)}
        del values["ends_BT"]  # read on the host
        there: dict[str, Any] = {name: x.to(device) for name, x in values.items() if isinstance(x, Tensor)}
        moved = replace(layout, **there)
        across = self.crossbatch
        if across is not None:
            across = Crossbatch(across.layers, across.asking_Q.to(device), across.visible_QS.to(device))
        labels = {name: labels_BT.to(device) for name, labels_BT in self.labels.items()}
        return Batch(self.tokens_BT.to(device), moved, self.targets_BT.to(device), across, labels, self.counts)


def collate(windows: Sequence[Window], pad_id: int, window: int | None = None) -> Batch:
    """Packs each window's rows one after the other and pads to `window` tokens (None: the longest window's).

    Windows of one full row each get the plain causal layout, which needs no mask. All others get a packed one:
    positions restart with every document, documents do not see each other, padding has index and document -1. No target
    crosses a document's border. Raises ValueError for no windows, an empty row, a mask of another length, and a window
    that is too long.
    """
    lengths = [[len(row.ids) for row in rows] for rows in windows]
    totals = [sum(counts) for counts in lengths]
    if not all(count for counts in lengths for count in counts) or not totals or min(totals) == 0:
        raise ValueError("no tokens in a window or a row: leave empty texts out before they are packed")
    size = max(totals) if window is None else window
    if max(totals) > size:
        raise ValueError(
            f"a window holds {max(totals)} tokens, more than window={size}: split its rows or raise window"
        )
    tokens_BT = np.full((len(windows), size), pad_id, dtype=np.int64)
    targets_BT = np.full((len(windows), size), IGNORE, dtype=np.int64)
    for b, rows in enumerate(windows):
        start = 0
        for row in rows:
            end = start + len(row.ids)
            tokens_BT[b, start:end] = row.ids
            targets_BT[b, start : end - 1] = _targets(row)
            start = end
    if all(counts == [size] for counts in lengths):
        layout = Layout.rows([size] * len(windows))
    else:
        layout = _packed(lengths, size)
    return Batch(torch.from_numpy(tokens_BT), layout, torch.from_numpy(targets_BT))


def _targets(row: TokenRow) -> NDArray[np.int64]:
    """What follows each token but the last, IGNORE where it is not supervised."""
    following = np.asarray(row.ids, dtype=np.int64)[1:]
    if row.supervised is None:
        return following
    if len(row.supervised) != len(row.ids):
        raise ValueError(f"a row of {len(row.ids)} ids has a mask of {len(row.supervised)}: they must be equally long")
    return np.where(np.asarray(row.supervised, dtype=bool)[1:], following, IGNORE)


def _packed(lengths: Sequence[Sequence[int]], size: int) -> Layout:
    index_BT = np.full((len(lengths), size), -1, dtype=np.int64)
    positions_BT = np.zeros_like(index_BT)
    document_BT = np.full_like(index_BT, -1)
    for b, counts in enumerate(lengths):
        total = sum(counts)
        starts = np.cumsum([0, *counts[:-1]])
        index_BT[b, :total] = np.arange(total)
        document_BT[b, :total] = np.repeat(np.arange(len(counts)), counts)
        positions_BT[b, :total] = np.arange(total) - np.repeat(starts, counts)
    return Layout.packed(*(torch.from_numpy(array) for array in (index_BT, positions_BT, document_BT)))
