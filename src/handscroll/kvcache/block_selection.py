"""How strongly the queries of the moment ask for each archived block: the attention that they would give it.

InfLLM (arXiv 2402.04617, section 3.2) adds up products of queries and representatives, where a block that is mildly
like everything beats one that is exactly what was asked for. Here a query's claim on a block is the attention mass that
the block's representatives would get, softmax over all archived representatives, and a query counts less the older it
is: what is looked up is what the text asks for now.

`claims` is a pure function of tensors, `add_claims` keeps the running sums of rows. Representatives are unrotated,
queries turned as the layer has it.

Letters: B rows, T tokens, H heads, K kv heads, G heads per kv head, D head width, N blocks, R representatives of a
block, M = N * R representatives, Q = B * G * T queries of one kv head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from handscroll.kvcache.block_slots import Row
from handscroll.kvcache.store import BlockStore

# Products of queries and representatives that exist at a time.
PRODUCTS = 1 << 24
# Queries whose weight is below this share of the latest one's are left out.
NEGLIGIBLE = 0.05


def add_claims(rows: Sequence[Row], query_BHTD: Tensor, store: BlockStore, recency: float) -> None:
    """What T more tokens of each row ask for, on top of what earlier ones asked, which fades (mutates the rows)."""
    held_BN = None
    if any(len(row.table_N) < store.count for row in rows):
        held_BN = torch.zeros(len(rows), store.count, dtype=torch.bool)
        for held_N, row in zip(held_BN, rows, strict=True):
            held_N[row.table_N] = True
        held_BN = held_BN.to(query_BHTD.device)
    claims_KBN = claims(query_BHTD, store.representatives, held_BN, recency)
    faded = recency ** query_BHTD.shape[2]
    for place, row in enumerate(rows):
        claims_KN = claims_KBN[:, place].index_select(1, row.table_N.to(claims_KBN.device))
        row.claims_KN = claims_KN if row.claims_KN is None else claims_KN + faded * row.claims_KN


def claims(
    query_BHTD: Tensor, representative_KNRD: Tensor, held_BN: Tensor | None, recency: float, products: int = PRODUCTS
) -> Tensor:
    """(K, B, N) float32: the claim of T consecutive tokens per row on each block, for each kv head.

    sum over heads of the group and over queries of recency^age * sum over representatives of
    softmax(q . r / sqrt(D)); the last token's age is 0. `held_BN` says which blocks a row holds (None: all of them);
    it gives no attention to others. A row must hold at least one.
    """
    heads, number, each, width = representative_KNRD.shape
    if recency < 1:
        query_BHTD = query_BHTD[:, :, -math.ceil(math.log(NEGLIGIBLE, recency)) :]
    batch, _, length, _ = query_BHTD.shape
    query_BKGTD = query_BHTD.reshape(batch, heads, -1, length, width)
    query_KQD = query_BKGTD.transpose(0, 1).reshape(heads, -1, width) / math.sqrt(width)
    representative_KDM = representative_KNRD.reshape(heads, -1, width).transpose(1, 2)
    queries = query_KQD.shape[1]
    row_Q = torch.arange(batch, device=query_BHTD.device).repeat_interleave(queries // batch)
    age_Q = torch.arange(length, device=query_BHTD.device).flip(0).repeat(queries // length)
    weight_BQ = torch.zeros(batch, queries, device=query_BHTD.device)
    weight_BQ.scatter_(0, row_Q[None], recency ** age_Q[None].float())

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
