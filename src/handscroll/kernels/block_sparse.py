"""Attention of blocks of queries to the few blocks of keys that each of them sees: exact, and never N x N.

A table names the key blocks of each query block, a mask says which of their keys a query sees. Keys are gathered and
scores made for some query blocks at a time, and the way back makes them anew instead of keeping them, so that time and
memory grow with the number of blocks times the width of the table (Sparse Transformers, arXiv 1904.10509; Longformer,
arXiv 2004.05150; BigBird, arXiv 2007.14062, appendix D). Which blocks these are is the caller's business.

The slow reference is `attention_with_weights` under the mask of all tokens.

Letters: B batch, T query tokens (N blocks of L), S keys in blocks of L, H query heads, K kv heads, G = H / K, D head
width, M blocks of a table's row, C some query blocks, R = G * L rows of scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Scores that exist at a time: 4 MiB in float32.
SCORES = 1 << 20


def block_sparse_attention(
    query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, table_BNM: Tensor, mask: Tensor
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the keys that the table and the mask leave: (B, H, T, D).

    `table_BNM` int64 (B or 1, N, M): which blocks of L = T / N keys are side by side for each of N blocks of queries.
    `mask`, for these keys: boolean (B or 1, N, L, M * L), True where a query sees a key, or a number that is added to
    the score, -inf where it doesn't, (B or 1, H, N, L, M * L). Every query sees at least one key, and none of them
    twice. Gradients reach query, key and value.
    """
    out: Tensor = _BlockSparse.apply(query_BHTD, key_BKSD, value_BKSD, table_BNM, mask)  # type: ignore[no-untyped-call]
    return out


class _Sizes(NamedTuple):
    batch: int
    kv_heads: int
    group: int
    blocks: int
    key_blocks: int
    length: int
    width: int

    def spans(self, keys: int) -> Iterator[slice]:
        """Query blocks that are answered at a time."""
        together = max(1, SCORES // (self.batch * self.kv_heads * self.group * self.length * keys))
        for first in range(0, self.blocks, together):
            yield slice(first, min(self.blocks, first + together))

    def rows(self, x_BHTD: Tensor, span: slice) -> Tensor:
        """(B * K * C, R, D): some blocks, the heads that share a kv head below one another."""
        x_BKGNLD = x_BHTD.view(self.batch, self.kv_heads, self.group, self.blocks, self.length, self.width)
        x_BKCGLD = x_BKGNLD[:, :, :, span].transpose(2, 3)
        return x_BKCGLD.reshape(-1, self.group * self.length, self.width)

    def numbers(self, table_BNM: Tensor, span: slice) -> Tensor:
        """(B * K * C * M): the table's blocks among those of all rows and kv heads."""
        pairs_BK11 = torch.arange(self.batch * self.kv_heads, device=table_BNM.device).view(self.batch, -1, 1, 1)
        return (pairs_BK11 * self.key_blocks + table_BNM[:, None, span]).flatten()

    def blocks_of(self, x_BKSD: Tensor, numbers: Tensor, keys: int) -> Tensor:
        """(B * K * C, M * L, D): blocks by their numbers, side by side."""
        return x_BKSD.view(-1, self.length, self.width).index_select(0, numbers).view(-1, keys, self.width)


def _probabilities(rows: Tensor, keys: Tensor, mask: Tensor, span: slice, sizes: _Sizes) -> Tensor:
    """(B * K * C, R, M * L) float32: softmax of the scores of already scaled queries."""
    scores = torch.bmm(rows, keys.transpose(1, 2)).float()
    scores_BKCGLX = scores.view(sizes.batch, sizes.kv_heads, -1, sizes.group, sizes.length, keys.shape[1])
    if mask.dtype == torch.bool:
        scores_BKCGLX.masked_fill_(~mask[:, None, span, None], float("-inf"))
    else:
        bias_BKGCLX = torch.unflatten(mask[:, :, span], 1, (sizes.kv_heads, sizes.group))
        scores_BKCGLX += bias_BKGCLX.transpose(2, 3)
    return scores.softmax(dim=-1)


class _BlockSparse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, table_BNM: Tensor, mask: Tensor) -> Tensor:
        batch, heads, tokens, width = query.shape
        kv_heads, stored = key.shape[1:3]
        blocks, length = table_BNM.shape[1], tokens // table_BNM.shape[1]
        assert tokens == blocks * length and stored % length == 0, "queries and keys come in whole blocks"
        sizes = _Sizes(batch, kv_heads, heads // kv_heads, blocks, stored // length, length, width)
        keys = table_BNM.shape[2] * sizes.length
        query, key, value = query.contiguous() / math.sqrt(width), key.contiguous(), value.contiguous()
        out = torch.empty_like(query)
        out_BKGNLD = out.view(batch, sizes.kv_heads, sizes.group, blocks, sizes.length, width)
        for span in sizes.spans(keys):
            numbers = sizes.numbers(table_BNM, span)
            probs = _probabilities(sizes.rows(query, span), sizes.blocks_of(key, numbers, keys), mask, span, sizes)
            attended = torch.bmm(probs.to(value.dtype), sizes.blocks_of(value, numbers, keys))
            out_BKGNLD[:, :, :, span] = attended.view(
                batch, sizes.kv_heads, -1, sizes.group, sizes.length, width
            ).transpose(2, 3)
        ctx.save_for_backward(query, key, value, out, table_BNM, mask)
        ctx.sizes = sizes
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, table_BNM, mask = ctx.saved_tensors
        sizes: _Sizes = ctx.sizes
        keys = table_BNM.shape[2] * sizes.length
        grad = grads[0].contiguous()
        grad_query = torch.empty_like(query)
        # Several spans add to one block of keys: sums stand in float32.
        grad_key, grad_value = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (key, value))
        query_BKGNLD = grad_query.view(
            sizes.batch, sizes.kv_heads, sizes.group, sizes.blocks, sizes.length, sizes.width
        )
        for span in sizes.spans(keys):
            numbers = sizes.numbers(table_BNM, span)
            rows, grad_rows, out_rows = (sizes.rows(x, span) for x in (query, grad, out))
            key_blocks, value_blocks = sizes.blocks_of(key, numbers, keys), sizes.blocks_of(value, numbers, keys)
            probs = _probabilities(rows, key_blocks, mask, span, sizes)
            _add(grad_value, numbers, torch.bmm(probs.to(grad.dtype).transpose(1, 2), grad_rows), sizes)
            # What softmax's gradient subtracts in each row (FlashAttention, arXiv 2205.14135, appendix B.4).
            drift = (grad_rows * out_rows).sum(-1, keepdim=True)
            grad_scores = torch.baddbmm(drift, grad_rows, value_blocks.transpose(1, 2), beta=-1).float().mul_(probs)
            grad_scores = grad_scores.to(rows.dtype)
            _add(grad_key, numbers, torch.bmm(grad_scores.transpose(1, 2), rows), sizes)
            query_BKGNLD[:, :, :, span] = (
                torch.bmm(grad_scores, key_blocks)
                .view(sizes.batch, sizes.kv_heads, -1, sizes.group, sizes.length, sizes.width)
                .transpose(2, 3)
            )
        grad_query /= math.sqrt(sizes.width)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _add(total: Tensor, numbers: Tensor, blocks: Tensor, sizes: _Sizes) -> None:
    """Adds gathered blocks to those that they were gathered from (mutates `total`)."""
    total.view(-1, sizes.length, sizes.width).index_add_(0, numbers, blocks.view(-1, sizes.length, sizes.width).float())
