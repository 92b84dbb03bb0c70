"""How many keys a query attends to: counted in the attention weights themselves, so that no policy has to say it.

Letters: B batch, T tokens, S keys, H heads, K kv heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from handscroll.model import Cache, Capture, Layout, Transformer
from handscroll.model.slots import Learned2dOptions, LearnedOptions

# Covers a whole tile of any policy, whatever the place of the first query in its tile.
QUERIES = 128
WEIGHT_BYTES = 2**26


def attended_keys(model: Transformer, cache: Cache, ids: Sequence[int]) -> int:
    """The most keys with a weight above zero that any query, layer and kv head attends to behind what was read.

    Forks of the one-row cache read the last tokens of `ids` once more for it, in a model with learnt positions at the
    last of these. Never more than were read: the count speaks of the text, not of the further queries.
    """
    alone = _weights(model, cache, ids[-1:])
    # A full cache's weights are (queries x length): long ones are looked at with few queries, and need no more.
    bytes_per_query = sum(weights_BHTS.nbytes for weights_BHTS in alone)
    queries = max(1, min(QUERIES, len(ids), WEIGHT_BYTES // bytes_per_query))
    most = 0
    for weights_BHTS in (*alone, *_weights(model, cache, ids[-queries:])):
        # The heads of a kv head's group see the same keys; a weight may still round to zero in one of them.
        grouped = (len(weights_BHTS), model.config.num_kv_heads, -1, *weights_BHTS.shape[2:])
        seen_BKTS = (weights_BHTS > 0).reshape(grouped).any(dim=2)
        most = max(most, int(seen_BKTS.sum(-1).max()))
    return min(most, len(ids))


def _weights(model: Transformer, cache: Cache, ids: Sequence[int]) -> tuple[Tensor, ...]:
    fork = cache.select([0])
    layout = Layout.rows([len(ids)], fork.lengths, device=model.device, capture=Capture(weights=True))
    if isinstance(model.config.position, LearnedOptions | Learned2dOptions):
        layout = replace(layout, positions_BTP=layout.positions_BTP.clamp(max=model.config.max_positions - 1))
    with torch.inference_mode():
        return model.hidden(torch.tensor([list(ids)], device=model.device), layout, fork).weights
