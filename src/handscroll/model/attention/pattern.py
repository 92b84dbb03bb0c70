"""Sparse patterns: which tokens see each other, as a function of their places in the text and of nothing else.

A window of neighbours, dilated or not, and global tokens (Longformer, arXiv 2004.05150, section 3.1); blocks drawn at
random and windows of whole blocks (BigBird, arXiv 2007.14062, section 2 and appendix D). Settings choose and mix them.
As places alone decide, a token sees the same with a cache, without one, and packed among other texts.

Letters: B batch, T query tokens, S keys, N blocks, L tokens of a block, M blocks that a block may see, R drawn ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from handscroll.model.attention.blocks import TextBlocks
from handscroll.model.attention.checks import refuse
from handscroll.model.config import ModelConfig
from handscroll.model.slots import AttentionOptions

# Masks of so many places are made at a time: what is computed on the way takes several times the mask.
PLACES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class SparseOptions(AttentionOptions):
    """A token sees itself, the `window` - 1 tokens before it and, where the model isn't causal, as many behind it.

    With `dilation` d these are every d-th token. The first `global_tokens` tokens of a text are seen by all and, where
    the model isn't causal, see all. Each block of `block` tokens sees `random_blocks` others, drawn from `seed`, the
    same in all layers. `whole_blocks` widens the window to blocks: window / block of them, the token's own included.

    Longformer with attention_window w: window = w/2 + 1. BigBird with block size b: block = b, window = 2 b,
    whole_blocks, global_tokens = b (the first block of its two), random_blocks = 3.
    """

    block: int = 64
    window: int = 256
    dilation: int = 1
    global_tokens: int = 0
    random_blocks: int = 0
    seed: int = 0
    whole_blocks: bool = False

    def __post_init__(self) -> None:
        for name, least in (("block", 1), ("window", 1), ("dilation", 1), ("global_tokens", 0), ("random_blocks", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: a sparse pattern needs at least {least}")
        if self.whole_blocks and (self.window % self.block or self.dilation > 1):
            raise ValueError(
                f"window={self.window} and dilation={self.dilation} make no whole blocks of block={self.block}: give a "
                "multiple of block and dilation 1, or leave out whole_blocks"
            )

    def check(self, config: ModelConfig) -> None:
        refuse(config, "sparse attention", masks=("causal", "bidirectional"), bias=True)


def drawn_blocks(options: SparseOptions, causal: bool, block: Tensor, count: Tensor) -> Tensor:
    """(..., R) int64: which blocks each block sees besides, by numbers in its text; -1: none.

    Causal, they lie before it; otherwise anywhere among the `count` blocks of its text.
    """
    draws_R = torch.arange(options.random_blocks, device=block.device)
    number = block[..., None]
    # A hash, not a generator: a block's draws depend on its number alone (the finalizer of MurmurHash3).
    mixed = (number * 0x9E3779B1 + draws_R * 0x85EBCA77 + options.seed * 0xC2B2AE3D) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    among = number if causal else count[..., None]
    return torch.where((among > 0) & (number >= 0), (mixed ^ (mixed >> 16)) % among.clamp(min=1), -1)


def seen(options: SparseOptions, causal: bool, query_T: Tensor, key_S: Tensor, drawn_TR: Tensor) -> Tensor:
    """(..., T, S): who sees whom, by places (..., T) and (..., S) in one text and the blocks that queries have drawn.

    A key at place -1 is seen by none but queries at place -1, which see all: they are padding, never read.
    """
    query_T1, key_1S = query_T[..., :, None].int(), key_S[..., None, :].int()
    distance_TS = query_T1 - key_1S
    if options.whole_blocks:
        block_distance_TS = query_T1 // options.block - key_1S // options.block
        seen_TS = block_distance_TS.abs() < options.window // options.block
    else:
        seen_TS = distance_TS.abs() < options.window * options.dilation
        if options.dilation > 1:
            seen_TS &= distance_TS % options.dilation == 0
    if options.global_tokens:
        seen_TS |= (key_1S < options.global_tokens) | (query_T1 < options.global_tokens)
    key_block_1S = key_1S // options.block
    for drawn_T in drawn_TR.int().unbind(-1):
        seen_TS |= drawn_T[..., None] == key_block_1S
    if causal:
        seen_TS &= distance_TS >= 0
    return (seen_TS & (key_1S >= 0)) | (query_T1 < 0)


def dense_mask(options: SparseOptions, causal: bool, query_BT: Tensor, key_BS: Tensor, count_BT: Tensor) -> Tensor:
    """(B, T, S): the pattern between all tokens of one text, of whose blocks there are `count_BT`."""
    drawn_BTR = drawn_blocks(options, causal, query_BT.div(options.block, rounding_mode="floor"), count_BT)
    return seen(options, causal, query_BT, key_BS, drawn_BTR)


def block_table(
    options: SparseOptions, causal: bool, blocks: TextBlocks, keys: TextBlocks | None = None
) -> tuple[Tensor, Tensor]:
    """The table (B, N, M) and the boolean mask (B, N, L, M * L) that `block_sparse_attention` takes.

    `keys`: the blocks of all that has been read where queries are the end of it, one text from its first block on;
    None: keys stand where queries do. Global queries see, here, what lies in the blocks of their table: whoever attends
    answers them apart.
    """
    batch, number = blocks.first_BN.shape
    device, length = blocks.first_BN.device, blocks.length
    own_BN = torch.arange(number, device=device) - blocks.first_BN
    reach = (
        options.window // length - 1 if options.whole_blocks else -(-(options.window - 1) * options.dilation // length)
    )
    offsets_M = torch.arange(-reach, (0 if causal else reach) + 1, device=device)
    globals_M = torch.arange(-(-options.global_tokens // length), device=device)
    drawn_BNR = drawn_blocks(options, causal, own_BN, blocks.count_BN)
    seen_BNM = torch.cat((own_BN[..., None] + offsets_M, globals_M.expand(batch, number, -1), drawn_BNR), dim=-1)
    slot_BNM = seen_BNM + blocks.first_BN[..., None] if keys is None else seen_BNM
    is_there_BNM = (seen_BNM >= 0) & (seen_BNM < blocks.count_BN[..., None]) & (slot_BNM >= 0)
    if causal:
        is_there_BNM &= seen_BNM <= own_BN[..., None]
    # A block that is reached in two ways is listed once.
    again_BNMM = (seen_BNM[..., :, None] == seen_BNM[..., None, :]) & is_there_BNM[..., None, :]
    is_there_BNM &= ~again_BNMM.tril(-1).any(-1)
    table_BNM = torch.where(is_there_BNM, slot_BNM, 0)
    place_BNL = blocks.place_BS.view(batch, number, length)
    key_place_BNL = place_BNL if keys is None else keys.place_BS.view(batch, -1, length)
    parts, places = [], batch * length * length * table_BNM.shape[2]
    for span in torch.split(torch.arange(number, device=device), max(1, PLACES // places)):
        listed_BC = table_BNM[:, span].flatten(1)[..., None].expand(-1, -1, length)
        key_BCML = key_place_BNL.gather(1, listed_BC).view(batch, len(span), -1, length)
        key_BCX = key_BCML.masked_fill(~is_there_BNM[:, span, :, None], -1).flatten(2)
        drawn_BCLR = drawn_BNR[:, span, None].expand(-1, -1, length, -1)
        parts.append(seen(options, causal, place_BNL[:, span], key_BCX, drawn_BCLR))
    return table_BNM, torch.cat(parts, dim=1)
