"""`per_head_budget`: kv heads share their layer's budget by where the best keys are (Ada-KV, arXiv 2407.11550).

Adds to `snapkv` that heads hold different numbers of tokens: a head that looks at few of them leaves its part to one
that looks at many. The best keys of all heads together decide how many each gets (algorithm 1), and a part of an even
budget is safe in every head (algorithm 2). Which keys are the best is a slot, `SCORERS` in `scorers.py`.

Each kv head has a store of its own, so that the layer holds what its budget says; rows of a batch are padded to the
longest, head by head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from handscroll.kvcache.layered import LayeredCache, Origin
from handscroll.kvcache.plan import Text
from handscroll.kvcache.prompt_layer import Rule
from handscroll.kvcache.scorers import SCORERS
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.model.config import ModelConfig
from handscroll.model.memory import Bytes
from handscroll.model.position import Position


@dataclass(frozen=True)
class PerHeadBudget:
    """`budget`: tokens that stay per kv head on average, the last `observation` among them; or a `share` of the text.

    `floor`: the part of an even budget that every head has; 1 is an even budget. With the scorer "received" all queries
    of a prompt are held until its end.
    """

    budget: int | None = None
    share: float | None = None
    observation: int = 32
    scorer: str = "observed"
    floor: float = 0.2

    chunk_invariant = False

    def __post_init__(self) -> None:
        if self.scorer not in SCORERS:
            raise ValueError(f"scorer={self.scorer!r}: known are {', '.join(SCORERS)}")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor={self.floor}: a part of an even budget, 0 to 1")
        self.rule()

    def rule(self) -> Rule:
        allot = partial(by_best, floor=self.floor)
        return Rule("per_head_budget", SCORERS[self.scorer], allot, self.observation, self.budget, self.share)

    def start(self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS) -> LayeredCache:
        return self.rule().start(config, Origin(self, stores, position), rows, [1] * config.num_kv_heads)

    def plan(self, config: ModelConfig, text: Text, stores: Stores = CONTIGUOUS) -> Bytes:
        """The most that a cache holds of a text, which is before its end."""
        return self.rule().plan(config, text, stores)


def by_best(scores: Sequence[Tensor], number: int, floor: float) -> list[int]:
    """How many keys each head keeps, `number` on average: (1 - floor) * its keys among the best + floor * `number`.

    What rounding leaves goes to the heads that were cut most, never more than a head has keys.
    """
    held = [len(scores_E) for scores_E in scores]
    total = min(number * len(scores), sum(held))
    head_E = torch.repeat_interleave(torch.arange(len(scores)), torch.tensor(held))
    best_N = torch.cat(list(scores)).topk(total).indices.cpu()
    among_best = torch.bincount(head_E[best_N], minlength=len(scores)).tolist()
    wanted = [(1 - floor) * count + floor * number for count in among_best]
    numbers = [min(int(want), most) for want, most in zip(wanted, held, strict=True)]
    while sum(numbers) < total:
        head = max((h for h in range(len(scores)) if numbers[h] < held[h]), key=lambda h: wanted[h] - numbers[h])
        numbers[head] += 1
    return numbers
