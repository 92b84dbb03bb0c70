"""`full`: remembers every token, the yardstick of all other policies. Memory and time per token grow with the text.

Keys are rotated once, at insertion: nothing ever moves. Where positions turn differently in a longer text (dynamic NTK,
LongRoPE) keys are kept unrotated and all of them are rotated at each use, by the length that the text has by then.

Letters: B rows, T tokens, S slots, H heads, K kv heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from handscroll.kernels.attention import additive
from handscroll.kvcache.layered import LayerCache, LayeredCache, PerForward, attend
from handscroll.kvcache.store import TokenStore
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout, visible
from handscroll.model.memory import Attended, Bytes
from handscroll.model.position import Position, Rotation


@dataclass(frozen=True)
class Full:
    """Every token, at its own position. Chunk-invariant: the caller's chunks don't change an answer.

    Where positions depend on the length, the layout's `totals` have to tell it for that to hold.
    """

    chunk_invariant = True

    def start(self, config: ModelConfig, position: Position, rows: int) -> LayeredCache:
        shared = PerForward()
        return LayeredCache([FullLayer(position, TokenStore(rows), shared) for _ in range(config.num_layers)], shared)


class FullLayer(LayerCache):
    some_may_ask = True

    def __init__(self, position: Position, store: TokenStore, shared: PerForward):
        self.position = position
        self.store = store
        self.shared = shared

    @property
    def rotates_at_use(self) -> bool:
        """Whether keys are kept as they came, and turned anew at each use."""
        return self.position.depends_on_length

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self.store.lengths)

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        rotation = self.shared.get(layout, "rotation", lambda: self.rotation(layout, layout.positions_BTP[..., 0]))
        kept_BKTD = key_BKTD if self.rotates_at_use else self.position.rotate(key_BKTD, rotation)
        self.append(kept_BKTD, value_BKTD, layout)
        key_BKSD = self.rotated_keys(layout)
        text = layout
        if asking is not None:
            rotation, layout = self.rotation(layout, asking.positions_BTP[..., 0]), asking
        assert self.store.value_BKSD is not None
        used = self.store.used
        causal = layout.is_uniform and layout.starts is not None and layout.starts[0] == 0 and self.sees_all(used)
        mask = None if causal else self.shared.get(layout, "mask", lambda: self.mask(layout, query_BHTD))
        if self.position.adds_bias:
            mask, causal = self.shared.get(layout, "bias", lambda: self.with_bias(mask, causal, text, layout)), False
        return attend(
            self.position.rotate(query_BHTD, rotation),
            key_BKSD,
            self.store.value_BKSD[:, :, :used],
            mask,
            causal,
            layout.capture.weights,
        )

    def rotation(self, layout: Layout, positions: Tensor) -> Rotation:
        """That of some positions in the layout's texts."""
        return self.position.rotation(positions, self.text_lengths(layout) if self.position.depends_on_length else None)

    def with_bias(self, mask: Tensor | None, causal: bool, text: Layout, asking: Layout) -> Tensor:
        """The mask of all slots in use for the tokens `asking` in a `text`, and what they lose by distance, in one."""
        lengths = self.text_lengths(text) if self.position.depends_on_length else None
        slots_BS = self.slot_positions(text, asking.index_BT.device)
        bias_BHTS = self.position.bias(asking.positions_BTP[..., 0], slots_BS, lengths)
        return additive(bias_BHTS, mask, causal)

    def rotated_keys(self, layout: Layout) -> Tensor:
        """(B, K, S, D): the keys in all slots in use, as they turn in the layout's texts."""
        assert self.store.key_BKSD is not None
        key_BKSD = self.store.key_BKSD[:, :, : self.store.used]
        if not self.rotates_at_use:
            return key_BKSD

        def slots() -> Rotation:
            return self.rotation(layout, self.slot_positions(layout, key_BKSD.device))

        return self.position.rotate(key_BKSD, self.shared.get(layout, "slots", slots))

    def slot_positions(self, layout: Layout, device: torch.device) -> Tensor:
        """(B, S): the position of each slot in use; any number where a row has none."""
        return self.store.index_BS(device).clamp(min=0)

    def text_lengths(self, layout: Layout) -> Tensor:
        """(B, 1): how long a text each row's positions turn for. Nothing is left out, so it is the whole text."""
        return layout.text_lengths()

    def append(self, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> None:
        """Remembers the layout's tokens (mutates)."""
        self.store.append(key_BKTD, value_BKTD, layout)

    def sees_all(self, used: int) -> bool:
        """Whether the latest query sees every key in the first `used` slots of a uniform batch."""
        return True

    def mask(self, layout: Layout, query_BHTD: Tensor) -> Tensor | None:
        """(B, 1, T, S); None where one token per row sees everything."""
        if layout.is_uniform and query_BHTD.shape[2] == 1 and self.sees_all(self.store.used):
            return None
        return visible(layout.index_BT, self.store.index_BS(query_BHTD.device))[:, None]

    def bytes(self) -> Bytes:
        return Bytes(device=self.store.nbytes(), host=0)

    def truncate(self, lengths: Sequence[int]) -> None:
        self.store.lengths = list(lengths)

    def select(self, rows: Sequence[int], shared: PerForward) -> FullLayer:
        return FullLayer(self.position, self.store.select(rows), shared)
