"""What each row has read and said so far, as the penalties need it; nothing is kept that none of them asks for.

Letters: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from handscroll.generation.options import Penalties


class Seen:
    """Rows are those that a batch began with; `read` are the tokens before the first generated one, per row."""

    counts_BV: Tensor | None = None  # how often each token was generated
    is_seen_BV: Tensor | None = None  # whether it was read or generated
    tokens_BT: list[Tensor] | None = None  # all that was read and generated

    def __init__(self, penalties: Penalties, read: Sequence[Sequence[int]], vocab_size: int, device: torch.device):
        shape = (len(read), vocab_size)
        if penalties.presence or penalties.frequency:
            self.counts_BV = torch.zeros(shape, device=device)
        if penalties.repetition == 1 and not penalties.no_repeat_ngram:
            return
        tokens_BT = [torch.as_tensor(row, dtype=torch.int64).to(device) for row in read]
        if penalties.repetition != 1:
            self.is_seen_BV = torch.zeros(shape, dtype=torch.bool, device=device)
            for is_seen_V, tokens_T in zip(self.is_seen_BV, tokens_BT, strict=True):
                is_seen_V[tokens_T] = True
        if penalties.no_repeat_ngram:
            self.tokens_BT = tokens_BT

    def add(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """One more token of some rows (mutates)."""
        for row, token in zip(rows, tokens, strict=True):
            if self.counts_BV is not None:
                self.counts_BV[row, token] += 1
            if self.is_seen_BV is not None:
                self.is_seen_BV[row, token] = True
            if self.tokens_BT is not None:
                tokens_T = self.tokens_BT[row]
                self.tokens_BT[row] = torch.cat((tokens_T, tokens_T.new_tensor([token])))

    def select(self, rows: Sequence[int]) -> Seen:
        """These rows, reordered, dropped or repeated; what is added to either leaves the other as it is."""
        chosen = object.__new__(Seen)
        chosen.counts_BV = None if self.counts_BV is None else self.counts_BV[list(rows)]
        chosen.is_seen_BV = None if self.is_seen_BV is None else self.is_seen_BV[list(rows)]
        chosen.tokens_BT = None if self.tokens_BT is None else [self.tokens_BT[row] for row in rows]
        return chosen
