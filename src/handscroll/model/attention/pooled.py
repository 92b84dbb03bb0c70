"""Pooled attention: a token sees what is recent in full, and what lies before as one pooled key and value per stretch.

Compression by a factor, by the mean or a learnt strided convolution, is the Compressive Transformer's (arXiv
1911.05507, section 3.1); here heads' keys and values are pooled, unturned, and a pooled key stands where the last token
of its stretch stood. A stretch is pooled as a whole once the window has left it, so that nothing is seen twice, nothing
is missing, and nothing that comes later is in it. Time grows with the square of the text over the stride; memory
with the text, in training, too; a cache by a key and a value per stride.

Letters: B batch, T tokens, S slots (N stretches of L), H heads, K kv heads, D head width, C some query slots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from handscroll.kernels.attention import additive, attention, attention_with_weights
from handscroll.model.attention.blocks import text_blocks
from handscroll.model.attention.checks import refuse
from handscroll.model.attention.grouped_query import GroupedQueryAttention
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.memory import Attended, LayerMemory
from handscroll.model.position import Position, rotation_at, rotation_of
from handscroll.model.slots import AttentionOptions

# Query slots that are answered at a time, at least.
SPAN = 128
POOLINGS = ("mean", "convolution")


@dataclass(frozen=True, kw_only=True)
class PooledOptions(AttentionOptions):
    """A token sees itself and the `window` - 1 tokens before it in full, and further ones up to a whole stretch.

    Of each `stride` tokens before these it sees one key and one value: their mean, or a learnt `convolution` of them.
    """

    window: int = 256
    stride: int = 16
    pooling: Literal["mean", "convolution"] = "mean"

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: pooled attention needs at least 1")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r} is not known; known: {', '.join(POOLINGS)}")

    def check(self, config: ModelConfig) -> None:
        refuse(config, "pooled attention", masks=("causal",), bias=True, dropout=True)

    def further_matrices(self, config: ModelConfig) -> int:
        """Two convolutions, stride D^2 each."""
        return 2 * self.stride * config.head_width**2 if self.pooling == "convolution" else 0

    def recent(self, place: Tensor) -> Tensor:
        """The first place that a token at this one sees in full: where a stretch begins."""
        return (place - self.window + 1).clamp(min=0) // self.stride * self.stride

    def further_activations(self, config: ModelConfig) -> int:
        """What is pooled, and was convolved; no log-sum-exp, and the output once: spans are answered anew."""
        heads_width, kv_width = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
        convolved = 2 * kv_width if self.pooling == "convolution" else 0
        return convolved + 2 * kv_width // self.stride - heads_width - config.num_heads


Pool = Callable[[Tensor], Tensor]


class Pooling(NamedTuple):
    """How keys and values (B, K, N, L, D) of whole stretches become one each (B, K, N, D)."""

    key: Pool
    value: Pool


class PoolingMemory(Protocol):
    """A memory that pools what it remembers."""

    def attend_pooled(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, pooling: Pooling, layout: Layout
    ) -> Attended: ...


class PooledAttention(GroupedQueryAttention):
    """`pool_k` and `pool_v`, where they are learnt: stride * D -> D, the same for all heads; they begin as the mean."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        options = config.attention
        assert isinstance(options, PooledOptions)
        self.pooling = Pooling(_mean, _mean)
        if options.pooling == "convolution":
            self.pool_k, self.pool_v = (
                nn.Linear(options.stride * config.head_width, config.head_width, bias=False) for _ in "kv"
            )
            self.pooling = Pooling(self._convolved_key, self._convolved_value)

    def attend(
        self,
        memory: LayerMemory,
        query_BHTD: Tensor,
        key_BKTD: Tensor,
        value_BKTD: Tensor,
        layout: Layout,
        asking: Layout | None,
    ) -> Attended:
        return cast(PoolingMemory, memory).attend_pooled(query_BHTD, key_BKTD, value_BKTD, self.pooling, layout)

    def _convolved_key(self, key_BKNLD: Tensor) -> Tensor:
        key_BKND: Tensor = self.pool_k(key_BKNLD.flatten(3))
        return key_BKND

    def _convolved_value(self, value_BKNLD: Tensor) -> Tensor:
        value_BKND: Tensor = self.pool_v(value_BKNLD.flatten(3))
        return value_BKND


def _mean(x_BKNLD: Tensor) -> Tensor:
    return x_BKNLD.mean(3)


class PooledMemory:
    """Pooled attention among the forward's own tokens. One serves all layers, and any recomputation."""

    some_may_ask = False
    reads_prefix = False
    keeps_positions = True

    def __init__(self, config: ModelConfig, position: Position, layout: Layout, dropout: float = 0.0):
        assert isinstance(config.attention, PooledOptions)
        self.options, self.position, self.dropout = config.attention, position, dropout
        self.blocks = text_blocks(layout, self.options.stride)
        self.rotation = rotation_of(position, layout)
        stride = self.options.stride
        position_BSP = torch.stack(
            [self.blocks.in_slots(axis_BT, 0) for axis_BT in layout.positions_BTP.unbind(-1)], -1
        )
        self.position_BS = position_BSP[..., 0]
        self.position_BN = self.position_BS[:, stride - 1 :: stride]
        self.length_BS: Tensor | None = None
        if position.depends_on_length:
            lengths_BT = layout.text_lengths().expand(-1, layout.index_BT.shape[1])
            self.length_BS = self.blocks.in_slots(lengths_BT, 1)
        length_BN = None if self.length_BS is None else torch.unflatten(self.length_BS, 1, (-1, stride)).amax(-1)
        self.pooled_rotation = rotation_at(position, position_BSP[:, stride - 1 :: stride], length_BN)

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        raise AssertionError("pooled attention hands over how it pools, too: attend_pooled")

    def attend_pooled(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, pooling: Pooling, layout: Layout
    ) -> Attended:
        """Weights (B, H, T, N + S) where captured: of pooled keys, then of slots."""
        blocks, stride = self.blocks, self.options.stride
        value_BKSD = blocks.spread(value_BKTD)
        pooled_key = pooling.key(torch.unflatten(blocks.spread(key_BKTD), 2, (-1, stride)))
        pooled_key = self.position.rotate(pooled_key, self.pooled_rotation)
        pooled_value = pooling.value(torch.unflatten(value_BKSD, 2, (-1, stride)))
        query_BHSD = blocks.spread(self.position.rotate(query_BHTD, self.rotation))
        key_BKSD = blocks.spread(self.position.rotate(key_BKTD, self.rotation))
        length, outs = query_BHTD.shape[2], []
        if layout.capture.weights:
            keys, values = torch.cat((pooled_key, key_BKSD), 2), torch.cat((pooled_value, value_BKSD), 2)
            everywhere = slice(0, blocks.slots)
            mask = self._mask(everywhere, everywhere, pooled_key.shape[2])
            out_BHSD, weights = attention_with_weights(query_BHSD, keys, values, mask, False)
            return Attended(blocks.collect(out_BHSD, length), blocks.collect(weights, length))
        # Split at once: the way back of a slice would be as long as the text, for each span.
        queries, near_keys, near_values = (torch.split(x, SPAN, 2) for x in (query_BHSD, key_BKSD, value_BKSD))
        for number, query_BHCD in enumerate(queries):
            first, last = number * SPAN, min((number + 1) * SPAN, blocks.slots)
            earliest = max(0, first - self.options.window - stride + 2) // SPAN
            asking, near = slice(first, last), slice(earliest * SPAN, last)
            answer = partial(self._answer, partial(self._mask, asking, near, last // stride), last // stride)
            laid = pooled_key, *near_keys[earliest : number + 1], pooled_value, *near_values[earliest : number + 1]
            if torch.is_grad_enabled():
                # Side by side, what the spans see grows with the square of the text: the way back lays it out anew.
                kept = self.dropout > 0
                outs.append(checkpoint(answer, query_BHCD, *laid, use_reentrant=False, preserve_rng_state=kept))
            else:
                outs.append(answer(query_BHCD, *laid))
        return Attended(blocks.collect(torch.cat(outs, 2), length), None)

    def _answer(self, mask: Callable[[], Tensor], pooled: int, query_BHCD: Tensor, *laid: Tensor) -> Tensor:
        """(B, H, C, D) of a span. `laid`: all pooled keys, of which `pooled` are seen, near ones, then their values."""
        half = len(laid) // 2
        keys, values = (torch.cat((first[:, :, :pooled], *near), 2) for first, *near in (laid[:half], laid[half:]))
        return attention(query_BHCD, keys, values, mask(), False, self.dropout)

    def _mask(self, asking: slice, near: slice, pooled: int) -> Tensor:
        """(B, 1 or H, C, pooled + near): who sees the first `pooled` stretches and the slots `near`, with the bias."""
        blocks, stride = self.blocks, self.options.stride
        text_BS = blocks.first_BN.repeat_interleave(stride, 1)
        query_BC1, key_B1S = blocks.place_BS[:, asking, None], blocks.place_BS[:, None, near]
        text_BC1, recent_BC1 = text_BS[:, asking, None], self.options.recent(query_BC1)
        sees_near = (key_B1S >= recent_BC1) & (key_B1S <= query_BC1) & (text_BS[:, None, near] == text_BC1)
        first_B1N = blocks.first_BN[:, None, :pooled]
        end_B1N = (torch.arange(pooled, device=text_BS.device) - first_B1N + 1) * stride
        sees_pooled = (end_B1N <= recent_BC1) & (first_B1N == text_BC1)
        mask = (torch.cat((sees_pooled, sees_near), -1) | (query_BC1 < 0))[:, None]
        if not self.position.adds_bias:
            return mask
        positions = torch.cat((self.position_BN[:, :pooled], self.position_BS[:, near]), 1)
        lengths = None if self.length_BS is None else self.length_BS[:, asking]
        return additive(self.position.bias(self.position_BS[:, asking], positions, lengths), mask, False)
