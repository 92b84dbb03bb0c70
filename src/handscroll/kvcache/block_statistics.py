"""What the lookups of block memory did: how many there were, what they exchanged, which blocks they came back to.

A row counts for itself, and its fork goes on counting from there, so that dropping rows drops their counts.

Letters: K kv heads, or one where all of them choose the same; N blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from handscroll.kvcache.block_lru import LruBlockStore, LruCounts
from handscroll.kvcache.block_store import BlockStore
from handscroll.kvcache.state import State

if TYPE_CHECKING:
    from handscroll.kvcache.block_slots import Row


class LayerStatistics(NamedTuple):
    """One layer's archive and lookups, over all rows of the cache.

    `archived`: blocks. `selections`: lookups that had more blocks to choose from than are read. `exchanged`: blocks
    that a kv head read after a selection and not before, on average. `retrieved`: for each block that was ever chosen,
    by its first token, the selections in which some kv head chose it. `device_cache`: None without `device_blocks`; it
    counts for all forks together.
    """

    layer: int
    archived: int
    selections: int
    exchanged: float
    retrieved: Mapping[int, int]
    device_cache: LruCounts | None


@dataclass
class Lookups:
    """What one row's selections did; `retrieved` counts places in the row's table of blocks."""

    selections: int = 0
    exchanged: float = 0.0
    retrieved: Counter[int] = field(default_factory=Counter)

    def note(self, chosen_KN: Tensor, before_KN: Tensor | None) -> None:
        """A selection took `chosen_KN` where `before_KN` were read (mutates)."""
        chosen = [set(head) for head in chosen_KN.tolist()]
        before = [set() for _ in chosen] if before_KN is None else [set(head) for head in before_KN.tolist()]
        self.selections += 1
        self.exchanged += sum(len(new - old) for new, old in zip(chosen, before, strict=True)) / len(chosen)
        self.retrieved.update(set().union(*chosen))

    def forget_from(self, place: int) -> None:
        """Blocks from `place` on are no longer archived (mutates)."""
        self.retrieved = Counter({known: times for known, times in self.retrieved.items() if known < place})

    def fork(self) -> Lookups:
        return replace(self, retrieved=self.retrieved.copy())

    def state(self) -> State:
        return vars(self) | {"retrieved": list(self.retrieved.items())}

    @classmethod
    def restored(cls, state: State) -> Lookups:
        return cls(**state | {"retrieved": Counter(dict(state["retrieved"]))})


def layer_statistics(layer: int, rows: Sequence[Row], store: BlockStore) -> LayerStatistics:
    """Adds up over rows."""
    selections = sum(row.lookups.selections for row in rows)
    exchanged = sum(row.lookups.exchanged for row in rows)
    retrieved: Counter[int] = Counter()
    for row in rows:
        retrieved.update({int(row.edges_N[place]): times for place, times in row.lookups.retrieved.items()})
    return LayerStatistics(
        layer,
        sum(len(row.table_N) for row in rows),
        selections,
        exchanged / max(1, selections),
        dict(sorted(retrieved.items())),
        store.counts if isinstance(store, LruBlockStore) else None,
    )
