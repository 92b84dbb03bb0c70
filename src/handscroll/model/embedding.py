"""From token ids to what the first layer reads: the sum of a token's, its position's and its segment's vectors.

Knows `EmbeddingOptions` and the positions that are added (`position/absolute.py`). Positions that turn or weigh
attention add nothing here.

Letters: B batch, T tokens, E model width.
"""

from __future__ import annotations

from torch import Tensor, nn

from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.norm import make_norm
from handscroll.model.position.absolute import ADDED


class Embedding(nn.Embedding):
    """Tokens' table, and beside it what the config asks for: `positions`, `segments`, `tasks`, `norm`, `projection`."""

    def __init__(self, config: ModelConfig):
        width, options = config.embedding_width, config.embedding
        super().__init__(config.vocab_size, width)
        added = ADDED.get(type(config.position))
        self.positions = None if added is None else added(config.max_positions, width)
        self.segments = nn.Embedding(options.segments, width) if options.segments else None
        self.tasks = nn.Embedding(options.tasks, width) if options.tasks else None
        self.norm = make_norm(config, width) if options.norm else None
        self.projection = nn.Linear(width, config.width) if options.width is not None else None
        self.dropout = nn.Dropout(config.embedding_dropout)

    def embed(self, tokens_BT: Tensor, layout: Layout) -> tuple[Tensor, object | None]:
        """(B, T) -> (B, T, E), and what the norm tells besides. Where the layout has no segments or tasks all are the
        first.

        Raises ValueError for a position that has no vector.
        """
        x_BTE = self(tokens_BT)
        if self.positions is not None:
            x_BTE = x_BTE + self.positions.embed(layout).to(x_BTE.dtype)
        for table, kinds_BT in ((self.segments, layout.kinds_BT), (self.tasks, layout.tasks_BT)):
            if table is not None:
                x_BTE = x_BTE + (table.weight[0] if kinds_BT is None else table(kinds_BT))
        aux = None
        if self.norm is not None:
            x_BTE, aux = self.norm(x_BTE, layout)
        x_BTE = self.dropout(x_BTE)
        return (x_BTE if self.projection is None else self.projection(x_BTE)), aux
