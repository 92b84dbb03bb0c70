"""What one forward pass of training is given: documents packed into windows, and windows collated into a batch.

A `TokenRow` is one document or chat. A window is a sequence of rows that share the model's window without seeing each
other. `collate` turns windows into a `Batch`: tokens, where they stand (`Layout`), and targets already shifted by one.
Which tokens are supervised is decided by the rows' masks; what loss they get is the objective's business.

Letters: B windows, T tokens, X rows of all windows, N tokens of all rows.
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
    rows = [row for window in windows for row in window]
    rows_B, length_X = (np.array([len(each) for each in of], dtype=np.int64) for of in (windows, [x.ids for x in rows]))
    window_X = np.repeat(np.arange(len(windows)), rows_B)
    if not len(rows) or not rows_B.all() or not length_X.all():
        raise ValueError("no tokens in a window or a row: leave empty texts out before they are packed")
    total_B = np.bincount(window_X, length_X).astype(np.int64)
    longest = int(total_B.max())
    size = longest if window is None else window
    if longest > size:
        raise ValueError(f"a window holds {longest} tokens, more than window={size}: split its rows or raise window")
    is_real_BT = np.arange(size) < total_B[:, None]
    tokens_BT, targets_BT = (np.full(is_real_BT.shape, fill, dtype=np.int64) for fill in (pad_id, IGNORE))
    ids_N = np.concatenate([row.ids for row in rows])
    tokens_BT[is_real_BT] = ids_N
    targets_BT[is_real_BT] = _targets(rows, ids_N, np.cumsum(length_X) - 1)
    if len(rows) == len(windows) and (length_X == size).all():
        layout = Layout.rows([size] * len(windows))
    else:
        layout = _packed(is_real_BT, rows_B, length_X)
    return Batch(torch.from_numpy(tokens_BT), layout, torch.from_numpy(targets_BT))


def _targets(rows: Sequence[TokenRow], ids_N: NDArray[np.integer], last_X: NDArray[np.int64]) -> NDArray[np.int64]:
    """What follows each token within its row, IGNORE where it is not supervised."""
    targets_N = np.append(ids_N[1:].astype(np.int64), IGNORE)
    targets_N[last_X] = IGNORE
    if any(row.supervised is not None for row in rows):
        masks = [np.ones(len(row.ids), dtype=bool) if row.supervised is None else row.supervised for row in rows]
        for row, mask in zip(rows, masks, strict=True):
            if len(mask) != len(row.ids):
                raise ValueError(f"a row of {len(row.ids)} ids has a mask of {len(mask)}: they must be equally long")
        targets_N[:-1][~np.concatenate(masks).astype(bool)[1:]] = IGNORE
    return targets_N


def _packed(is_real_BT: NDArray[np.bool_], rows_B: NDArray[np.int64], length_X: NDArray[np.int64]) -> Layout:
    index_BT = np.where(is_real_BT, np.arange(is_real_BT.shape[1]), -1)
    positions_BT, document_BT = np.zeros_like(index_BT), np.full_like(index_BT, -1)
    start_X = np.cumsum(length_X) - length_X
    positions_BT[is_real_BT] = np.arange(int(length_X.sum())) - np.repeat(start_X, length_X)
    document_X = np.arange(len(length_X)) - np.repeat(np.cumsum(rows_B) - rows_B, rows_B)
    document_BT[is_real_BT] = np.repeat(document_X, length_X)
    return Layout.packed(*(torch.from_numpy(array) for array in (index_BT, positions_BT, document_BT)))
