"""Scaled dot-product attention as pure functions of tensors: the fast path, and the slow one that it is held against.

A third one, which is to be read and never holds all scores, is `flash_attention`. Knows nothing of models, positions or
caches: queries and keys arrive already rotated, visibility arrives as a mask.

Letters: B batch, T query tokens, S keys, H query heads, K kv heads, G = H / K query heads per kv head, D head width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from handscroll.kernels.tiled_attention import causal_attention

# What may compute a model's attention: the fast path, FlashAttention in the open, the slow reference.
KERNELS = ("fused", "flash", "naive")

# Keys from which on one token's attention is quicker as two products than in PyTorch's kernel, on a CPU in float32.
LONG = 4096


def attention(
    query_BHTD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float = 0.0,
) -> Tensor:
    """Grouped-query attention, softmax(q k^T / sqrt(D)) v, in PyTorch's fused kernel.

    `mask`, broadcastable to (B, H, T, S), is boolean, True where a key is visible, or a floating-point number that is
    added to the score, -inf where it isn't (`additive`); None lets every query see every key.
    `causal` (only with mask None and T == S) hides later keys without building a mask. `dropout` is the share of
    weights that is dropped, the others being scaled up: the tiled kernel can't, so that on a CPU PyTorch's, which then
    holds all scores, takes its place. Returns (B, H, T, D).
    """
    batch, num_heads, length, width = query_BHTD.shape
    num_kv_heads = key_BKSD.shape[1]
    group = num_heads // num_kv_heads
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query_BHTD.dtype)
    if group > 1 and length == 1:
        # One query token: its group of heads becomes the row dimension, so that no key is copied (10x repeat_kv).
        folded = query_BHTD.reshape(batch, num_kv_heads, group, width)
        if mask is None and _is_long_on_cpu(folded, key_BKSD) and dropout == 0:
            return _attention_of_one(folded, key_BKSD, value_BKSD).reshape(query_BHTD.shape)
        if mask is not None and mask.dim() > 2 and mask.shape[-3] > 1:
            mask = mask.reshape(*mask.shape[:-3], num_kv_heads, group, mask.shape[-1])
        out = F.scaled_dot_product_attention(folded, key_BKSD, value_BKSD, attn_mask=mask, dropout_p=dropout)
        return out.reshape(query_BHTD.shape)
    is_trained_on_cpu = query_BHTD.requires_grad and query_BHTD.device.type == "cpu"
    if causal and is_trained_on_cpu and query_BHTD.dtype == torch.float32 and dropout == 0:
        return causal_attention(query_BHTD, key_BKSD, value_BKSD)
    return F.scaled_dot_product_attention(
        query_BHTD,
        key_BKSD,
        value_BKSD,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and length > 1,
        enable_gqa=group > 1,
    )


def _is_long_on_cpu(query_BKGD: Tensor, key_BKSD: Tensor) -> bool:
    return query_BKGD.device.type == "cpu" and query_BKGD.dtype == torch.float32 and key_BKSD.shape[2] >= LONG


def _attention_of_one(query_BKGD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor) -> Tensor:
    """One token's groups of heads, (B, K, G, D), in two products, which PyTorch's kernel takes a quarter longer for.

    Keys stand on the left: so the BLAS reads them half as fast again.
    """
    scaled_BKDG = (query_BKGD / math.sqrt(query_BKGD.shape[-1])).transpose(-1, -2)
    scores_BKGS = (key_BKSD @ scaled_BKDG).transpose(-1, -2).contiguous()
    return scores_BKGS.softmax(dim=-1) @ value_BKSD


def attention_with_weights(
    query_BHTD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The slow reference of `attention`: the same output, and the weights (B, H, T, S) before any is dropped."""
    length, stored = query_BHTD.shape[2], key_BKSD.shape[2]
    group = query_BHTD.shape[1] // key_BKSD.shape[1]
    key_BHSD = key_BKSD.repeat_interleave(group, dim=1)
    value_BHSD = value_BKSD.repeat_interleave(group, dim=1)
    scores_BHTS = query_BHTD @ key_BHSD.transpose(-1, -2) / math.sqrt(query_BHTD.shape[-1])
    if causal:
        mask = torch.ones(length, stored, dtype=torch.bool, device=query_BHTD.device).tril()
    if mask is not None:
        is_visibility = mask.dtype == torch.bool
        scores_BHTS = scores_BHTS.masked_fill(~mask, float("-inf")) if is_visibility else scores_BHTS + mask
    weights_BHTS = scores_BHTS.softmax(dim=-1)
    return F.dropout(weights_BHTS, dropout) @ value_BHSD, weights_BHTS


def additive(bias: Tensor | None, mask: Tensor | None, causal: bool) -> Tensor:
    """A bias (H, T, S) or (B, H, T, S) and what is visible, as the one mask that the functions above take.

    `mask` is boolean, and with `causal` None, as there: each of T = S queries sees itself and earlier keys.
    """
    assert bias is not None, "positions that add a bias have one"
    if causal:
        mask = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril()
    return bias if mask is None else torch.where(mask, bias, float("-inf"))
