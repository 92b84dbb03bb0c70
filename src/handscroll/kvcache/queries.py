"""Queries that have yet to vote on what stays: as they came, for each row its own.

Letters: B rows, T tokens, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from handscroll.kvcache.archive import nbytes


class Queries:
    """Of each row a list of (H, T, D); tensors are never written to, so that forks share them."""

    def __init__(self, rows: int):
        self.parts: list[list[Tensor]] = [[] for _ in range(rows)]

    def number(self, row: int) -> int:
        return sum(part_HTD.shape[1] for part_HTD in self.parts[row])

    def of(self, row: int) -> Tensor:
        """(H, T, D)"""
        return torch.cat(self.parts[row], dim=1)

    def add(self, row: int, query_HTD: Tensor) -> None:
        """Behind the row's others (mutates)."""
        # A copy: a view would keep the queries of the whole batch.
        self.parts[row].append(query_HTD.clone())

    def drop_last(self, row: int, number: int) -> None:
        """Forgets the row's last ones (mutates)."""
        self._set(row, slice(0, max(0, self.number(row) - number)))

    def keep_last(self, row: int, number: int) -> None:
        """Forgets all but the row's last ones (mutates)."""
        self._set(row, slice(max(0, self.number(row) - number), None))

    def clear(self, row: int) -> None:
        self.parts[row] = []

    def select(self, rows: Sequence[int]) -> Queries:
        chosen = Queries(0)
        chosen.parts = [list(self.parts[row]) for row in rows]
        return chosen

    def join(self, other: Queries) -> Queries:
        joined = Queries(0)
        joined.parts = [list(parts) for parts in (*self.parts, *other.parts)]
        return joined

    def state(self) -> list[Tensor | None]:
        return [self.of(row) if parts else None for row, parts in enumerate(self.parts)]

    @classmethod
    def restored(cls, state: Sequence[Tensor | None], device: torch.device) -> Queries:
        queries = cls(0)
        queries.parts = [[] if query_HTD is None else [query_HTD.to(device)] for query_HTD in state]
        return queries

    def nbytes(self) -> int:
        return nbytes(*(part_HTD for parts in self.parts for part_HTD in parts))

    def _set(self, row: int, span: slice) -> None:
        if self.parts[row] and span != slice(0, self.number(row)) and span != slice(0, None):
            kept_HTD = self.of(row)[:, span]
            self.parts[row] = [kept_HTD.clone()] if kept_HTD.shape[1] else []
