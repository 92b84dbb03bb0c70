"""Who starts with which numbers: all of a new model's weights are drawn here, in one function."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from handscroll.model import deepnorm
from handscroll.model.heads import VocabularyHead
from handscroll.model.norm import Norm, RunningNorm
from handscroll.model.position.relative import Relative
from handscroll.model.slots import RopeOptions

if TYPE_CHECKING:
    from handscroll.model.transformer import Transformer

# Low frequencies hardly tell neighbours apart: with a bias of 2 the token that is looked for gets less than half of a
# head's attention, even after training; with 4, and content hushed, nearly all.
KEY_BIAS, CONTENT = 4.0, 0.1


@torch.no_grad()
def initialize(model: Transformer, seed: int) -> None:
    """Draws every weight from `seed`.

    | weight | distribution |
    |---|---|
    | embedding | normal, std 1: what a token is must not drown in what attention adds to it |
    | embedding that is the head too, of a model without a final norm | normal, std 1 / sqrt(width): logits have std 1 |
    | the same with `deepnorm` | normal, std 1 / width: such a stream keeps much of the token that came in, whose own \
logit would be sqrt(width), and 1 so; each token would foretell itself, and little training changes that |
    | positions, segments, tasks | normal, std 0.1: they tell a token's meaning apart, and don't drown it |
    | q, k, v, gate, up, head | normal, std 1 / sqrt(fan in) |
    | relative positions' matrices (r), low-rank attention's (e, f) | normal, std 1 / sqrt(fan in) |
    | o, down | normal, std 1 / sqrt(fan in) / sqrt(2 * layers): the residual stream keeps its size (GPT-2) |
    | the same with `deepnorm` | normal, std gain * sqrt(2 / (fan in + fan out)) (Xavier); gain 1 for q, k, r, e, f, \
gate; beta of `deepnorm.py` for v, o, up and down |
    | pool_k, pool_v (pooled attention's convolutions) | the mean of a stretch |
    | biases, and those of relative positions (u, v) | 0 |
    | norm weights | 1; the last one 1 / sqrt(E) where the embedding is the head too, so that logits have std 1 |
    | norm weight within a masked LM head | as the last one's: it stands before the embedding's matrix |
    | norms after attention and feed-forward in a `sandwich` | 1 / sqrt(2 * layers), and o and down as the others: \
these norms decide alone what is added to the residual stream |
    | norm weights of queries and keys | 1: a score's std is then 1, whatever was projected |
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config

    def draw(weight: torch.Tensor, std: float) -> None:
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    residual = 1 / math.sqrt(2 * config.num_layers)
    is_sandwich, is_deep = config.norm_placement == "sandwich", config.norm_placement == "deepnorm"
    for name, module in model.named_modules():
        if name == "embedding":
            is_head = config.tied_embeddings and not config.has_final_norm
            draw(model.embedding.weight, config.embedding_width ** (-1.0 if is_deep else -0.5) if is_head else 1.0)
        elif isinstance(module, nn.Embedding):
            draw(module.weight, 0.1)
        elif name.endswith((".pool_k", ".pool_v")):
            _average(cast(nn.Linear, module))
        elif isinstance(module, nn.Linear):
            scale = residual if name.endswith((".o", ".down")) and not is_sandwich else 1.0
            std = scale / math.sqrt(module.in_features)
            if is_deep and name.startswith("layers."):
                gain = deepnorm.beta(config.num_layers) if name.endswith((".v", ".o", ".up", ".down")) else 1.0
                std = gain * math.sqrt(2 / (module.in_features + module.out_features))
            draw(module.weight, std)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, VocabularyHead):
            if module.weight is not None:
                draw(module.weight, 1 / math.sqrt(module.weight.shape[1]))
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.LayerNorm):
            is_scaled = config.tied_embeddings and config.has_final_norm
            module.weight.fill_(1 / math.sqrt(len(module.weight)) if is_scaled else 1.0)
            module.bias.zero_()
        elif isinstance(module, Norm):
            is_scaled = name == "norm" and config.tied_embeddings
            module.weight.fill_(1 / math.sqrt(config.width) if is_scaled else 1.0)
            if name.endswith("_out_norm"):
                module.weight.fill_(residual)
            if module.bias is not None:
                module.bias.zero_()
            if isinstance(module, RunningNorm):
                module.forget()
        elif isinstance(module, Relative):
            module.u.zero_()
            module.v.zero_()


def _average(convolution: nn.Linear) -> None:
    """Sets the weight (D, stride * D) so that it gives the mean of the stride's vectors (mutates)."""
    width, inputs = convolution.weight.shape
    convolution.weight.copy_(torch.eye(width).repeat(1, inputs // width) * (width / inputs))


@torch.no_grad()
def look_back(model: Transformer, bias: float = KEY_BIAS) -> None:
    """Sets the first layer's q and k so that head h starts out looking h + 1 tokens back, whatever stands there.

    A head that sees the previous token is the first half of an induction head (arXiv 2209.11895); finding it by
    gradient descent is what small models spend most of their training on. Every key bias is `bias`; the query bias is
    the same vector turned by -(h + 1) positions, so that their product peaks where key position = query position -
    (h + 1), and 0 in features that aren't turned. Their weights are made small (`CONTENT`), lest content outshout
    position.
    Raises ValueError for a model without q and k biases, and for positions that turn nothing.
    """
    config = model.config
    if not isinstance(config.position, RopeOptions):
        raise ValueError(f"{config.position} turns neither q nor k: looking back needs rotary positions")
    if not config.qkv_bias:
        raise ValueError("qkv_bias=False: looking back is written into the q and k biases; use qkv_bias=True")
    query, key = (cast(nn.Linear, model.get_submodule(f"layers.0.attention.{name}")) for name in ("q", "k"))
    heads = torch.arange(config.num_heads)
    group = config.num_heads // config.num_kv_heads
    rotation = model.position.rotation(heads + 1)
    key_bias_KD = torch.zeros(config.num_kv_heads, config.head_width)
    key_bias_KD[:, : config.position.turned(config.head_width)] = bias
    key.bias.copy_(key_bias_KD.flatten())
    # Turning by -(h + 1) is turning by h + 1 with the sine's sign changed.
    backwards = rotation._replace(sine=-rotation.sine)
    query_bias_HD = model.position.rotate(key_bias_KD.repeat_interleave(group, 0)[None, None], backwards)[0, 0]
    query.bias.copy_(query_bias_HD.flatten())
    for projection in (query, key):
        projection.weight.mul_(CONTENT)
