"""The contract between attention and whatever remembers keys and values; and `DirectMemory`, which remembers nothing.

Attention projects, hands (query, key, value) to its memory unrotated, and projects what comes back. With a cache the
memory is one of `Cache.layers`; without one it is `DirectMemory`: the forward's own tokens, as in training.

Letters: B batch, T tokens, S keys, H heads, K kv heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from handscroll.kernels.attention import additive, attention, attention_with_weights
from handscroll.kernels.flash_attention import flash_attention
from handscroll.model.config import ModelConfig
from handscroll.model.layout import Layout
from handscroll.model.position import Position, RelativeLayer, bias_of, rotation_of
from handscroll.model.sight import LayoutSight


class Attended(NamedTuple):
    """What attention read: (B, H, T, D); weights (B, H, T, S) only where the layout captures them."""

    out_BHTD: Tensor
    weights_BHTS: Tensor | None


class View(NamedTuple):
    """What a query may attend to: keys rotated at `positions_BKS`; `index_BKS` (-1 = empty slot) decides visibility."""

    key_BKSD: Tensor
    value_BKSD: Tensor
    positions_BKS: Tensor
    index_BKS: Tensor


class Bytes(NamedTuple):
    """Bytes held, by where they live. On a CPU `device` is what attention reads, `host` what waits in archives."""

    device: int
    host: int


class Crossbatch(NamedTuple):
    """Tokens of a training batch that also see other rows (crossbatch training, arXiv 2307.03170, section 3.2).

    They do so in `layers` (0: the first). `asking_Q` (int64) are their places in the flattened batch, from 0 to
    B * T - 1; `visible_QS` (Q, B * T) says what each of them sees instead of what the layout lets it see.
    """

    layers: tuple[int, ...]
    asking_Q: Tensor
    visible_QS: Tensor


class LayerMemory(Protocol):
    """One layer's memory. `attend` mutates a cache: it appends the new keys and values, then attends.

    `asking`: the layout of the queries where they are fewer than the keys, given only to a memory that
    `some_may_ask`: one that remembers keys and values whoever asks for them.
    """

    @property
    def some_may_ask(self) -> bool: ...

    @property
    def reads_prefix(self) -> bool:
        """Whether tokens may see later ones of their forward, as a layout's prefix says."""

    @property
    def keeps_positions(self) -> bool:
        """Whether tokens stay at the layout's own positions, in all of their axes."""

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended: ...


class Cache(Protocol):
    """The memory of a batch of sequences, one `LayerMemory` per layer. Rows are independent and of any length."""

    @property
    def layers(self) -> Sequence[LayerMemory]:
        """One memory per transformer layer, the first layer's first."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens read so far, per row."""

    def bytes(self) -> Bytes:
        """Bytes of every tensor held, device and host apart."""

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forgets what each row read past `lengths[row]` (mutates). ValueError where a policy no longer can."""

    def select(self, rows: Sequence[int]) -> Cache:
        """A new cache of these rows, reordered, dropped or repeated; later appends to either leave the other as is."""


class CachePolicy(Protocol):
    """Frozen options of one way of remembering."""

    def start(self, config: ModelConfig, position: Position, rows: int) -> Cache:
        """An empty cache for `rows` sequences."""


class DirectMemory:
    """Attention among the forward's own tokens. Stateless: one serves all layers of a `window`, and any recomputation.

    `kind`: of the mask, as in the config. `crossbatch`: of all tokens some look across rows, always by the fused
    kernel. `dropout`: the share of weights that is dropped, drawn from PyTorch's global generator; flash can't.
    `kernel`: one of `KERNELS`.
    """

    some_may_ask = True
    reads_prefix = True
    keeps_positions = True

    def __init__(
        self,
        position: Position,
        layout: Layout,
        crossbatch: Crossbatch | None = None,
        window: int | None = None,
        dropout: float = 0.0,
        kind: str = "causal",
        kernel: str = "fused",
    ):
        self.position, self.window, self.dropout, self.kind = position, window, dropout, kind
        self.rotation = rotation_of(position, layout)
        self.kernel, self.sight = kernel, None
        if kernel == "flash" and not layout.capture.weights:
            self.sight = LayoutSight(position, layout, None, window, kind)
        self.mask = self._mask(layout) if self.sight is None else None
        self.crossbatch = crossbatch
        if crossbatch is not None and position.adds_bias:
            self.crossbatch = crossbatch._replace(visible_QS=self._mask_across(crossbatch, layout))

    def attend(
        self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, asking: Layout | None = None
    ) -> Attended:
        rotation = self.rotation if asking is None else rotation_of(self.position, layout, asking)
        query_BHTD = self.position.rotate(query_BHTD, rotation)
        key_BKTD = self.position.rotate(key_BKTD, self.rotation)
        if self.sight is not None:
            sight = self.sight if asking is None else self.sight.of(asking)
            out_BHTD = flash_attention(query_BHTD, key_BKTD, value_BKTD, sight)
        else:
            mask = self.mask if asking is None else self._mask(layout, asking)
            causal = mask is None and self.kind != "bidirectional"
            asked_BHTD = query_BHTD
            if isinstance(self.position, RelativeLayer):
                positions = ((asking or layout).row_positions, layout.row_positions)
                asked_BHTD = self.position.asked(query_BHTD)
                mask, causal = additive(self.position.said(query_BHTD, *positions), mask, causal), False
            if layout.capture.weights:
                return Attended(*attention_with_weights(asked_BHTD, key_BKTD, value_BKTD, mask, causal))
            kernel = attention if self.kernel == "fused" else _naive
            out_BHTD = kernel(asked_BHTD, key_BKTD, value_BKTD, mask, causal, self.dropout)
        if self.crossbatch is not None:
            out_BHTD = _look_across(self.crossbatch, self.dropout, out_BHTD, query_BHTD, key_BKTD, value_BKTD)
        return Attended(out_BHTD, None)

    def _mask(self, layout: Layout, asking: Layout | None = None) -> Tensor | None:
        """Who sees whom, with the position's bias where it has one; None where plain causality says it all."""
        mask_B1TS = layout.mask(asking, self.window, self.kind)
        if not self.position.adds_bias:
            return mask_B1TS
        causal = mask_B1TS is None and self.kind != "bidirectional"
        return additive(bias_of(self.position, layout, asking), mask_B1TS, causal)

    def _mask_across(self, crossbatch: Crossbatch, layout: Layout) -> Tensor:
        """(H, Q, P) of the tokens that look at all P tokens of all rows: what they see, with the bias."""
        positions_BT = layout.positions_BTP[..., 0]
        lengths_Q = None
        if self.position.depends_on_length:
            lengths_Q = layout.text_lengths().expand_as(positions_BT).flatten()[crossbatch.asking_Q]
        positions_P = positions_BT.flatten()
        bias_HQP = self.position.bias(positions_P[crossbatch.asking_Q], positions_P, lengths_Q)
        return additive(bias_HQP, crossbatch.visible_QS, False)


def _naive(
    query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    return attention_with_weights(query_BHTD, key_BKTD, value_BKTD, mask, causal, dropout)[0]


def _look_across(
    crossbatch: Crossbatch, dropout: float, out_BHTD: Tensor, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor
) -> Tensor:
    """`out_BHTD`, anew where a token looks across rows: all keys of the batch stand side by side for it."""
    query_HPD, key_KPD, value_KPD = (
        x_BHTD.transpose(0, 1).flatten(1, 2) for x_BHTD in (query_BHTD, key_BKTD, value_BKTD)
    )
    asking_1HQD = query_HPD.index_select(1, crossbatch.asking_Q)[None]
    across_1HQD = attention(asking_1HQD, key_KPD[None], value_KPD[None], crossbatch.visible_QS, False, dropout)
    batch, heads, length, width = out_BHTD.shape
    out_HPD = out_BHTD.transpose(0, 1).flatten(1, 2).index_copy(1, crossbatch.asking_Q, across_1HQD[0])
    return out_HPD.view(heads, batch, length, width).transpose(0, 1)
