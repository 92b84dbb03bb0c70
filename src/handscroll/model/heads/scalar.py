"""One number: how good a text is, in a reward model (arXiv 2203.02155, section 3.5), or a value at each token."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from handscroll.model.config import ModelConfig, chosen
from handscroll.model.layout import Layout
from handscroll.model.pooling import pool
from handscroll.model.slots import HeadOptions

PLACES = ("last", "every")


@dataclass(frozen=True)
class ScalarOptions(HeadOptions):
    """`at` the last token of each row, or at every one."""

    at: str = "last"
    bias: bool = False

    def __post_init__(self) -> None:
        chosen("at", self.at, dict.fromkeys(PLACES))

    def parameter_count(self, config: ModelConfig) -> int:
        return config.width + int(self.bias)


class Scalar(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        assert isinstance(config.head, ScalarOptions)
        self.at = config.head.at
        self.score = nn.Linear(config.width, 1, bias=config.head.bias)

    def forward(self, hidden_BTE: Tensor, layout: Layout, embedding_VE: Tensor) -> Tensor:
        """(B,), or (B, T) at every token."""
        read = hidden_BTE if self.at == "every" else pool(hidden_BTE, layout, "last")
        scores: Tensor = self.score(read)[..., 0]
        return scores
