"""`snapkv`: of a prompt only what its last tokens attend to (SnapKV, arXiv 2404.14469): they know what is asked.

A prompt is read in full, so that the peak of memory is that of `full`. At its end the last `observation` queries vote
for all earlier keys: their attention, summed over queries, averaged over the heads of a group, pooled along the text.
Each kv head keeps its best ones and the observation window. `prompt_layer.py` reads and drops, `scorers.py` rates.

A question has to stand in the observation window of the prompt that it is about: what an earlier prompt has dropped is
gone when the next one asks. At the end of each prompt everything that is still held is rated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from handscroll.kvcache.layered import LayeredCache, Origin
from handscroll.kvcache.plan import Text
from handscroll.kvcache.prompt_layer import Rule
from handscroll.kvcache.scorers import Observed
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.model.config import ModelConfig
from handscroll.model.memory import Bytes
from handscroll.model.position import Position


@dataclass(frozen=True)
class SnapKV:
    """`budget`: tokens that stay per kv head, the observation window among them; or a `share` of the text (0.25).

    At least the observation window stays. `kernel`: tokens that are pooled, by `pooling` "max" or "average".
    """

    budget: int | None = None
    share: float | None = None
    observation: int = 32
    kernel: int = 7
    pooling: str = "max"

    chunk_invariant = False

    def __post_init__(self) -> None:
        self.rule()

    def rule(self) -> Rule:
        scorer = Observed(self.pooling, self.kernel)
        return Rule("snapkv", scorer, evenly, self.observation, self.budget, self.share)

    def start(self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS) -> LayeredCache:
        return self.rule().start(config, Origin(self, stores, position), rows, [config.num_kv_heads])

    def plan(self, config: ModelConfig, text: Text, stores: Stores = CONTIGUOUS) -> Bytes:
        """The most that a cache holds of a text, which is before its end."""
        return self.rule().plan(config, text, stores)


def evenly(scores: Sequence[Tensor], number: int) -> list[int]:
    """The same number for every kv head."""
    return [min(number, len(scores_E)) for scores_E in scores]
