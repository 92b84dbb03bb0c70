"""Any store, reduced to some slots of each kv head: for policies that keep some tokens only.

Letters: B rows, K kv heads, S slots, N slots that stay or move, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from handscroll.kvcache.store import TokenStore
from handscroll.model.layout import Layout


def keep(store: TokenStore, slots: Sequence[Tensor | None]) -> None:
    """Of each row only these slots (K, N) stay, for each kv head its own, rising; None: all of them (mutates).

    They move together; from then on slots are counted anew. Those before the first that goes are not touched, so
    that an archive in few bits rounds them no second time. A store without `limit` gives spare room back.
    """
    assert not store.sinks and not any(store.bases), "slots are not counted from the text's beginning"
    assert store.key_BKSD is not None
    firsts, numbers = list(store.lengths), [0] * len(store.lengths)
    for row, slots_KN in enumerate(slots):
        if slots_KN is not None:
            stays_N = (slots_KN == torch.arange(slots_KN.shape[1], device=slots_KN.device)).all(dim=0)
            firsts[row] = int(stays_N.sum())
            numbers[row] = slots_KN.shape[1] - firsts[row]
    batch, heads, _, width = store.key_BKSD.shape
    key_BKND, value_BKND = (store.key_BKSD.new_zeros(batch, heads, max(numbers), width) for _ in range(2))
    if max(numbers):
        for row, ((key_KSD, value_KSD), slots_KN) in enumerate(zip(store.rows(), slots, strict=True)):
            if slots_KN is not None:
                index_KND = slots_KN[:, firsts[row] :, None].expand(-1, -1, width)
                key_BKND[row, :, : numbers[row]] = key_KSD.gather(1, index_KND)
                value_BKND[row, :, : numbers[row]] = value_KSD.gather(1, index_KND)
    store.truncate(firsts)
    store.append(key_BKND, value_BKND, Layout.rows(numbers, firsts, device=key_BKND.device))
    store.settle()
    if store.limit is None:
        store.trim(1)
