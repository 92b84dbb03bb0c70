"""Linear attention (arXiv 2006.16236): no softmax, and a past that is a state of constant size (`linear_attention.py`).

Projects as grouped-query attention does. With rotary positions the numerator alone is turned (RoFormer, arXiv
2104.09864, equation 19). Time grows linearly with the text, and in decoding it doesn't grow at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from handscroll.kernels.linear_attention import (
    CHUNK,
    Features,
    causal_linear_attention,
    empty_state,
    feature_map,
    linear_attention,
    linear_attention_with_weights,
)
from handscroll.model.attention.blocks import places_in_text, text_blocks
from handscroll.model.attention.checks import refuse
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout, visible
from handscroll.model.memory import Attended
from handscroll.model.position import Position, Rotation, rotation_of
from handscroll.model.slots import AttentionOptions


@dataclass(frozen=True, kw_only=True)
class LinearAttentionOptions(AttentionOptions):
    """Linear attention has nothing to choose: phi(x) = elu(x) + 1."""

    def check(self, config: ModelConfig) -> None:
        refuse(config, "linear attention", masks=("causal", "bidirectional"))

    def further_activations(self, config: ModelConfig) -> int:
        """phi, as it is and turned, of q and k; where it is causal the scores of a chunk and what they add up to."""
        heads_width, kv_width = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
        if config.mask == "causal":
            return config.num_heads * CHUNK + 4 * heads_width + 2 * kv_width
        return 2 * heads_width + kv_width


class LinearMemory:
    """Linear attention among the forward's own tokens. Stateless: one serves all layers."""

    some_may_ask = False
    reads_prefix = False
    keeps_positions = True

    def __init__(self, config: ModelConfig, position: Position, layout: Layout, dropout: float = 0.0):
        self.causal, self.position = config.mask == "causal", position
        self.rotation = rotation_of(position, layout)
        self.blocks = text_blocks(layout, CHUNK)

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        assert asking is None, "all tokens ask"
        query = features(query_BHTD, self.position, self.rotation)
        key = features(key_BKTD, self.position, self.rotation, layout)
        if layout.capture.weights:
            return Attended(*linear_attention_with_weights(query, key, value_BKTD, self._dense(layout)))
        blocks = self.blocks
        query, key = (Features(*map(blocks.spread, each)) for each in (query, key))
        value_BKSD = blocks.spread(value_BKTD)
        packed = layout.document_BT is not None
        if self.causal:
            begins_BN = blocks.first_BN == torch.arange(blocks.first_BN.shape[1], device=value_BKSD.device)
            out_BHSD, _ = causal_linear_attention(
                query, key, value_BKSD, empty_state(value_BKSD), begins_BN if packed else None
            )
        else:
            out_BHSD = linear_attention(query, key, value_BKSD, blocks.first_BN if packed else None)
        return Attended(blocks.collect(out_BHSD, query_BHTD.shape[2]), None)

    def _dense(self, layout: Layout) -> Tensor:
        """(B, 1, T, T): who sees whom."""
        place_BT = places_in_text(layout)
        if self.causal:
            mask_BTS = visible(layout.index_BT, layout.index_BT)
        else:
            mask_BTS = (place_BT >= 0)[:, None].expand(-1, place_BT.shape[1], -1)
        if layout.document_BT is not None:
            mask_BTS = mask_BTS & (layout.document_BT[:, :, None] == layout.document_BT[:, None])
        return mask_BTS[:, None]


def features(x_BHTD: Tensor, position: Position, rotation: Rotation, keys: Layout | None = None) -> Features:
    """phi(x), as it is and turned; `keys`: where these are keys, of which padding's are zeros."""
    plain_BHTD = feature_map(x_BHTD)
    if keys is not None:
        plain_BHTD = plain_BHTD * (keys.index_BT >= 0)[:, None, :, None]
    return Features(plain_BHTD, position.rotate(plain_BHTD, rotation))
