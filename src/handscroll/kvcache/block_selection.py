"""How strongly the queries of the moment ask for each archived block: the attention that they would give it.

InfLLM (arXiv 2402.04617, section 3.2) adds up products of queries and representatives, where a block that is mildly
like everything beats one that is exactly what was asked for. Here a query's claim on a block is the attention mass that
the block's representatives would get, softmax over all archived representatives, and a query counts less the older it
is: what is looked up is what the text asks for now.

`claims` is a pure function of tensors and looks at every representative; `indexed_claims` looks only at those that an
index finds, and takes the others' share of the softmax from their centroids. `add_claims` keeps the running sums of
rows. Representatives are unrotated, queries turned as the layer has it.

Letters: B rows, T tokens, H heads, K kv heads, G heads per kv head, D head width, N blocks, R representatives of a
block, M = N * R representatives, or those found, Q = G * T queries of one kv head, and in `claims` those of all rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from handscroll.kvcache.block_index import BlockIndex
from handscroll.kvcache.block_slots import Row
from handscroll.kvcache.block_store import BlockStore

# Products of queries and representatives that exist at a time.
PRODUCTS = 1 << 24
# Queries whose weight is below this share of the latest one's are left out.
NEGLIGIBLE = 0.05


def add_claims(
    rows: Sequence[Row], query_BHTD: Tensor, store: BlockStore, recency: float, scale_D: Tensor, candidates: int
) -> None:
    """What T more tokens of each row ask for, on top of what earlier ones asked, which fades (mutates the rows).

    For the store's index: what of each feature is left in turned queries, and how many candidates it finds.
    """
    held_BN = None
    if any(len(row.table_N) < store.count for row in rows):
        held_BN = torch.zeros(len(rows), store.count, dtype=torch.bool)
        for held_N, row in zip(held_BN, rows, strict=True):
            held_N[row.table_N] = True
        held_BN = held_BN.to(query_BHTD.device)
    index, representative_KNRD = store.index, store.representatives
    if index is not None:
        index.update(representative_KNRD, scale_D)
    if index is not None and index.listed:
        claims_KBN = indexed_claims(query_BHTD, representative_KNRD, held_BN, recency, index, candidates)
    else:
        claims_KBN = claims(query_BHTD, representative_KNRD, held_BN, recency)
    faded = recency ** query_BHTD.shape[2]
    for place, row in enumerate(rows):
        claims_KN = claims_KBN[:, place].index_select(1, row.table_N.to(claims_KBN.device))
        if row.claims_KN is not None:
            # Nothing was asked of blocks that have come since.
            claims_KN[:, : row.claims_KN.shape[1]] += faded * row.claims_KN
        row.claims_KN = claims_KN


def claims(
    query_BHTD: Tensor, representative_KNRD: Tensor, held_BN: Tensor | None, recency: float, products: int = PRODUCTS
) -> Tensor:
    """(K, B, N) float32: the claim of T consecutive tokens per row on each block, for each kv head.

    sum over heads of the group and over queries of recency^age * sum over representatives of
    softmax(q . r / sqrt(D)); the last token's age is 0. `held_BN` says which blocks a row holds (None: all of them);
    it gives no attention to others. A row must hold at least one.
    """
    heads, number, each, width = representative_KNRD.shape
    query_KBQD, weight_Q = _asking(query_BHTD, heads, recency)
    batch, length = query_KBQD.shape[1:3]
    query_KQD = query_KBQD.flatten(1, 2)
    representative_KDM = representative_KNRD.reshape(heads, -1, width).transpose(1, 2)
    queries = batch * length
    row_Q = torch.arange(batch, device=query_BHTD.device).repeat_interleave(length)
    weight_BQ = torch.zeros(batch, queries, device=query_BHTD.device)
    weight_BQ.scatter_(0, row_Q[None], weight_Q.repeat(batch)[None])

    claim_KBM = torch.zeros(heads, batch, number * each, device=query_BHTD.device)
    step = max(1, products // (heads * number * each))
    for first in range(0, queries, step):
        piece = slice(first, first + step)
        product_KQM = torch.bmm(query_KQD[:, piece], representative_KDM).float()
        if held_BN is not None:
            unheld_QM = (~held_BN[row_Q[piece]]).repeat_interleave(each, dim=1)
            product_KQM.masked_fill_(unheld_QM, float("-inf"))
        claim_KBM += weight_BQ[:, piece] @ product_KQM.softmax(dim=-1)
    return claim_KBM.view(heads, batch, number, each).sum(dim=-1)


def indexed_claims(
    query_BHTD: Tensor,
    representative_KNRD: Tensor,
    held_BN: Tensor | None,
    recency: float,
    index: BlockIndex,
    candidates: int,
) -> Tensor:
    """(K, B, N) float32: `claims` on blocks in lists that the queries ask for, and on those in no list; others 0.

    What is in other lists takes part in each query's softmax as if it stood at its list's centroid, so that a query
    that asks for nothing in particular does not claim what it happens to find. The index must be up to date.
    """
    heads, number, each, width = representative_KNRD.shape
    query_KBQD, weight_Q = _asking(query_BHTD, heads, recency)
    batch, late, device = len(query_BHTD), number - index.listed, query_BHTD.device
    held_B = torch.ones(batch, device=device) if held_BN is None else held_BN.float().mean(dim=1)
    member_KBM, is_member_KBM, rest_KBQ = index.look_up(query_KBQD, weight_Q, held_B, candidates)
    block_KBM = member_KBM // each
    found_KBQM = torch.stack(
        [
            query_BQD @ key_MD.index_select(0, member_BM.flatten()).view(batch, -1, width).mT
            for query_BQD, key_MD, member_BM in zip(
                query_KBQD, representative_KNRD.flatten(1, 2), member_KBM, strict=True
            )
        ]
    ).float()
    late_KBQM = (query_KBQD @ representative_KNRD[:, None, index.listed :].flatten(2, 3).mT).float()
    if held_BN is not None:
        is_member_KBM &= held_BN[torch.arange(batch, device=device)[:, None], block_KBM]
        unheld_BM = (~held_BN[:, index.listed :]).repeat_interleave(each, dim=1)
        late_KBQM.masked_fill_(unheld_BM[:, None], float("-inf"))
    found_KBQM.masked_fill_(~is_member_KBM[:, :, None], float("-inf"))
    mass_KBQM = torch.cat((found_KBQM, late_KBQM, rest_KBQ[..., None]), dim=-1).softmax(dim=-1)
    found_KBM, late_KBM, _ = (weight_Q @ mass_KBQM).split_with_sizes([block_KBM.shape[2], late * each, 1], dim=-1)
    claim_KBN = torch.zeros(heads, batch, number, device=device)
    claim_KBN[..., index.listed :] = late_KBM.reshape(heads, batch, late, each).sum(dim=-1)
    return claim_KBN.scatter_add_(2, block_KBM, found_KBM)


def _asking(query_BHTD: Tensor, heads: int, recency: float) -> tuple[Tensor, Tensor]:
    """Queries (K, B, Q, D) that count, divided by sqrt(D), and what each of them counts (Q,)."""
    if recency < 1:
        query_BHTD = query_BHTD[:, :, -math.ceil(math.log(NEGLIGIBLE, recency)) :]
    batch, _, length, width = query_BHTD.shape
    query_KBQD = query_BHTD.reshape(batch, heads, -1, width).transpose(0, 1) / math.sqrt(width)
    age_T = torch.arange(length, device=query_BHTD.device).flip(0)
    return query_KBQD, (recency ** age_T.float()).repeat(query_KBQD.shape[2] // length)
