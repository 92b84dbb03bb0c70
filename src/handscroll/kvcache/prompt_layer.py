"""A layer that reads a prompt in full and keeps some of its tokens at its end, for `snapkv` and `per_head_budget`.

A prompt ends where a layout's `totals` are reached; where nothing is told, with every forward of more than one token.
Until then all keys are held: the peak of memory is that of `full`. At the end the scorer rates all keys but the last
`observation`, which stay; a layer's kv heads share what the budget leaves. Everything that is held is rated again at
the end of the next prompt; generated tokens stay until then. What stays keeps its place in the text (`kept_layer.py`).

Letters: B rows, T tokens, S slots, E earlier slots, H heads, K kv heads, N kept slots, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from handscroll.kvcache.full_layer import FullLayer
from handscroll.kvcache.kept_layer import KeptLayer, Served
from handscroll.kvcache.layered import LayerCache, LayeredCache, Origin, PerForward, refuse_unless_all_seen
from handscroll.kvcache.plan import Text, planned_layers, without_numbers
from handscroll.kvcache.queries import Queries
from handscroll.kvcache.scorers import Scorer
from handscroll.kvcache.state import State
from handscroll.kvcache.stores import Stores
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import make_position, of_layer

# Of a text, where neither a number of tokens nor a share is chosen.
SHARE = 0.25


@dataclass(frozen=True)
class Rule:
    """What stays. `allot` says how many earlier tokens each kv head keeps, of so many on average, given all scores."""

    policy: str
    scorer: Scorer
    allot: Callable[[Sequence[Tensor], int], list[int]]
    observation: int
    budget: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if self.observation < 1:
            raise ValueError(f"observation={self.observation}: {self.policy} needs at least 1 token that asks")
        if self.budget is not None and self.share is not None:
            raise ValueError(f"budget={self.budget} and share={self.share}: {self.policy} takes one of them")
        if self.budget is not None and self.budget <= self.observation:
            raise ValueError(
                f"budget={self.budget}: the last {self.observation} tokens (observation) always stay, so that more "
                "are needed"
            )
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: a part of the text, more than 0, at most 1")

    def number(self, length: int) -> int:
        """Earlier tokens that stay of a text of `length`, per kv head on average."""
        budget = self.budget or math.ceil((self.share or SHARE) * length)
        return max(0, budget - self.observation)

    def start(self, config: ModelConfig, origin: Origin, rows: int, heads: Sequence[int]) -> LayeredCache:
        """A cache whose layers hold these numbers of kv heads side by side, each in a store of its own."""
        refuse_unless_all_seen(config, self.policy)
        shared, places = PerForward(), PerForward()
        spans = [slice(*span) for span in pairwise(accumulate(heads, initial=0))]
        layers = []
        for number in range(config.num_layers):
            position = of_layer(origin.position, number)
            parts = [
                KeptLayer(position, origin.stores.tokens(rows), shared, Served.of(config, number, span))
                for span in spans
            ]
            layers.append(PromptLayer(self, parts, heads, places))
        return LayeredCache(layers, shared, origin)

    def plan(self, config: ModelConfig, text: Text, stores: Stores) -> Bytes:
        """The most that a cache holds of a text: all of it, until its end, and the queries that will vote."""
        layer = FullLayer(make_position(config), without_numbers(stores).tokens(text.rows), PerForward())
        held = planned_layers([layer] * config.num_layers, config, text, stores)
        votes = {"none": 0, "last": min(self.observation, text.tokens), "all": text.tokens}[self.scorer.voters]
        size = config.num_layers * config.num_heads * config.head_width * text.dtype.itemsize
        return Bytes(held.device + text.rows * votes * size, held.host)


class PromptLayer(LayerCache):
    """`parts`: memories of some kv heads each, which hold equally many tokens; a part's index is a slot."""

    def __init__(self, rule: Rule, parts: Sequence[KeptLayer], heads: Sequence[int], places: PerForward):
        self.rule, self.parts, self.heads, self.places = rule, list(parts), tuple(heads), places
        self.position = parts[0].position
        rows = len(parts[0].store.lengths)
        self.read = [0] * rows
        # The length that each row had when it last dropped something.
        self.dropped_at = [0] * rows
        self.queries = Queries(rows)

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self.read)

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        assert asking is None, "the last queries have a say in what stays"
        assert layout.starts is not None and layout.lengths is not None, "a cache needs rows, not packed windows"
        groups = zip(
            self.parts,
            self._split(query_BHTD),
            key_BKTD.split_with_sizes(self.heads, 1),
            value_BKTD.split_with_sizes(self.heads, 1),
            strict=True,
        )
        attended = [part.attend(query, key, value, self._in_slots(layout, part)) for part, query, key, value in groups]
        self.read = [start + length for start, length in zip(layout.starts, layout.lengths, strict=True)]
        ended = self._listen(query_BHTD, layout)
        if ended:
            self._compress(ended)
        weights = [each.weights_BHTS for each in attended if each.weights_BHTS is not None]
        widest = max((part.shape[-1] for part in weights), default=0)
        weights = [F.pad(part_BHTS, (0, widest - part_BHTS.shape[-1])) for part_BHTS in weights]
        out_BHTD = torch.cat([each.out_BHTD for each in attended], dim=1)
        return Attended(out_BHTD, torch.cat(weights, dim=1) if weights else None)

    def _split(self, query_BHTD: Tensor) -> Sequence[Tensor]:
        """The queries of each part's heads."""
        group = query_BHTD.shape[1] // sum(self.heads)
        return query_BHTD.split_with_sizes([group * heads for heads in self.heads], dim=1)

    def _in_slots(self, layout: Layout, part: KeptLayer) -> Layout:
        """The layout with slots of a part for indices; positions and lengths stay those of the text."""
        slots = tuple(part.store.lengths)
        if slots == layout.starts:
            return layout
        assert layout.starts is not None and layout.lengths is not None
        ends = [start + length for start, length in zip(layout.starts, layout.lengths, strict=True)]
        totals = tuple(map(max, ends, layout.totals or ends))

        def moved() -> Layout:
            index_BT = layout.index_BT
            shift_B1 = (
                torch.tensor(slots, device=index_BT.device)[:, None]
                - torch.tensor(layout.starts, device=index_BT.device)[:, None]
            )
            index_BT = torch.where(index_BT < 0, index_BT, index_BT + shift_B1)
            return replace(layout, index_BT=index_BT, starts=slots, totals=totals)

        # A layout of its own keeps what is worked out from a part's places apart from what others share.
        return moved() if part.looks_at_places else self.places.get(layout, f"from {slots}", moved)

    def _listen(self, query_BHTD: Tensor, layout: Layout) -> list[int]:
        """Holds the queries that will vote (mutates). Returns the rows whose prompt ends here."""
        assert layout.lengths is not None
        ended = []
        for row, length in enumerate(layout.lengths):
            if layout.totals is None and length == 1:
                self.queries.clear(row)
            elif length:
                if self.rule.scorer.voters != "none":
                    self.queries.add(row, query_BHTD[row, :, :length])
                if self.rule.scorer.voters == "last":
                    self.queries.keep_last(row, self.rule.observation)
                if layout.totals is None or self.read[row] >= layout.totals[row]:
                    ended.append(row)
        return ended

    def _compress(self, rows: Sequence[int]) -> None:
        """Of these rows only what the rule keeps stays (mutates); others are left as they are."""
        held = [part.store.rows() for part in self.parts]
        kept: list[list[Tensor | None]] = [[None] * len(self.read) for _ in self.parts]
        for row in rows:
            scores = self._scores(row, [part[row][0] for part in held])
            numbers = self.rule.allot(scores, self.rule.number(self.read[row]))
            self.queries.clear(row)
            if all(number == len(scores_E) for number, scores_E in zip(numbers, scores, strict=True)):
                continue
            self.dropped_at[row] = self.read[row]
            slots = [
                torch.cat(
                    (
                        best(scores_E, number),
                        torch.arange(len(scores_E), len(scores_E) + self.rule.observation, device=scores_E.device),
                    )
                )
                for number, scores_E in zip(numbers, scores, strict=True)
            ]
            for slots_of_rows, heads in zip(kept, self.heads, strict=True):
                slots_of_rows[row] = torch.stack(slots[:heads])
                slots = slots[heads:]
        del held
        for part, slots_of_rows in zip(self.parts, kept, strict=True):
            if any(slots_KN is not None for slots_KN in slots_of_rows):
                part.keep(slots_of_rows)

    def _scores(self, row: int, keys: Sequence[Tensor]) -> list[Tensor]:
        """(E,) for each kv head: how much its earlier keys matter; E is 0 in a text within the observation."""
        if self.rule.scorer.voters == "none":
            queries = [key_KSD[:, :0].repeat_interleave(self.parts[0].group, 0) for key_KSD in keys]
        else:
            queries = [part_1HTD[0] for part_1HTD in self._split(self.queries.of(row)[None])]
        found: list[Tensor] = []
        for part, query_HTD, key_KSD in zip(self.parts, queries, keys, strict=True):
            earlier = max(0, key_KSD.shape[1] - self.rule.observation)
            if earlier:
                met = part.meet(row, query_HTD, key_KSD, self.read[row], self.read[row])
                found.extend(self.rule.scorer.scores(met, earlier))
            else:
                found.extend(key_KSD.new_zeros(len(key_KSD), 0))
        return found

    def bytes(self) -> Bytes:
        held = [part.bytes() for part in self.parts]
        device = sum(part.device for part in held) + self.queries.nbytes()
        return Bytes(device, sum(part.host for part in held))

    def truncate(self, lengths: Sequence[int]) -> None:
        """Anywhere behind the prompt at whose end tokens were last dropped; ValueError for less."""
        for row, (length, dropped_at) in enumerate(zip(lengths, self.dropped_at, strict=True)):
            if length < dropped_at:
                raise ValueError(
                    f"row {row} can't be truncated to {length} tokens: {self.rule.policy} dropped tokens at "
                    f"{dropped_at}, and those would be needed; read the text again, or keep a fork (select)"
                )
        forgotten = [read - length for read, length in zip(self.read, lengths, strict=True)]
        for row, number in enumerate(forgotten):
            self.queries.drop_last(row, number)
        for part in self.parts:
            part.truncate([held - number for held, number in zip(part.store.lengths, forgotten, strict=True)])
        self.read = list(lengths)

    def select(self, rows: Sequence[int], shared: PerForward) -> Self:
        chosen = copy(self)
        chosen.parts = [part.select(rows, shared) for part in self.parts]
        chosen.read = [self.read[row] for row in rows]
        chosen.dropped_at = [self.dropped_at[row] for row in rows]
        chosen.queries = self.queries.select(rows)
        return chosen

    def join(self, other: Self, shared: PerForward) -> Self:
        joined = copy(self)
        joined.parts = [part.join(theirs, shared) for part, theirs in zip(self.parts, other.parts, strict=True)]
        joined.read, joined.dropped_at = self.read + other.read, self.dropped_at + other.dropped_at
        joined.queries = self.queries.join(other.queries)
        return joined

    def state(self) -> State:
        return {
            "parts": [part.state() for part in self.parts],
            "read": self.read,
            "dropped_at": self.dropped_at,
            "queries": self.queries.state(),
        }

    def restore(self, state: State, device: torch.device) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.restore(saved, device)
        self.read, self.dropped_at = state["read"], state["dropped_at"]
        self.queries = Queries.restored(state["queries"], device)


def best(scores_E: Tensor, number: int) -> Tensor:
    """(N,): the places of the largest scores, rising. Of equal ones, which pooling makes, the earlier stay."""
    return scores_E.sort(descending=True, stable=True).indices[:number].sort().values
