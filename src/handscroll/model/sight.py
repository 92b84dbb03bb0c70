"""Who sees whom in a layout, tile by tile: what tells FlashAttention (`kernels/flash_attention.py`) without a mask.

Each tile's answer follows from where its queries and keys stand (index, document, prefix, window) and from the
position's bias between them. Only whether a tile is wholly seen or hidden is remembered.

Letters: B batch, T queries of a tile, S keys of a tile.
"""

from __future__ import annotations

from torch import Tensor

from handscroll.kernels.attention import additive
from handscroll.model.layout import Layout
from handscroll.model.position import Position


class LayoutSight:
    """The `Sight` of a layout's tokens, or of those `asking` that were picked from it, to all of them.

    Padding sees nothing, where a dense mask lets it see everything: nobody reads what it gets.
    """

    def __init__(
        self, position: Position, layout: Layout, asking: Layout | None, window: int | None, kind: str = "causal"
    ):
        self.position, self.keys, self.queries = position, layout, asking or layout
        self.window, self.kind = window, kind
        self.lengths = layout.text_lengths(asking) if position.depends_on_length else None
        self._whole: dict[tuple[int, int], bool] = {}

    def of(self, asking: Layout) -> LayoutSight:
        return LayoutSight(self.position, self.keys, asking, self.window, self.kind)

    def __call__(self, queries: slice, keys: slice) -> Tensor | bool:
        """True, False, or a mask (B, 1, T, S), with a bias (B, H, T, S)."""
        tile = queries.start, keys.start
        seen: Tensor | bool | None = self._whole.get(tile)
        if seen is None:
            seen = self._mask(queries, keys)
            if not seen.any() or seen.all():
                seen = self._whole[tile] = bool(seen.any())
        if seen is False or not self.position.adds_bias:
            return seen
        lengths = self.lengths
        if lengths is not None and lengths.shape[1] > 1:
            lengths = lengths[:, queries]
        positions = (self.queries.positions_BTP[:, queries, 0], self.keys.positions_BTP[:, keys, 0])
        return additive(self.position.bias(*positions, lengths), None if seen is True else seen, False)

    def _mask(self, queries: slice, keys: slice) -> Tensor:
        asking = self.queries.part(queries)
        mask_BTS = self.keys.part(keys).seen_by(asking, self.window, self.kind)
        return (mask_BTS & (asking.index_BT >= 0)[:, :, None])[:, None]
