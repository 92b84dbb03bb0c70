"""A trained model with fewer key and value heads: multi-head attention becomes grouped- or multi-query.

GQA (arXiv 2305.13245, section 2.1): the projections of all heads of a group become one, their mean, which beat keeping
the first of them. The model has to be trained on for a little, a twentieth of its tokens in the paper, to read as well
as before. Leaves what a config says of it to `families/`, and training to recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from handscroll.model.config import ModelConfig, chosen
from handscroll.model.transformer import Transformer

# (N, R, rows of a head, ...), R heads of each group -> one.
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda heads: heads.mean(1),
    "first": lambda heads: heads[:, 0].clone(),
}
# Per kv head and in their order: what the attention slot's modules call them.
PROJECTIONS = ("attention.k.weight", "attention.k.bias", "attention.v.weight", "attention.v.bias")


def shared_config(config: ModelConfig, kv_heads: int, pooling: str = "mean") -> ModelConfig:
    """The config of the same model with `kv_heads` heads for keys and values.

    ValueError where these aren't fewer, don't divide those that there are, or more than projections depends on them.
    """
    chosen("pooling", pooling, POOLINGS)
    before = config.num_kv_heads
    if before == 1:
        raise ValueError(
            f"kv_heads={kv_heads}: the model has one head for keys and values already, as multi-query attention does"
        )
    if not 1 <= kv_heads < before or before % kv_heads:
        fewer = [str(each) for each in range(1, before) if before % each == 0]
        raise ValueError(
            f"kv_heads={kv_heads}: the model's {before} heads for keys and values become fewer by pooling equal "
            f"groups: give {' or '.join(fewer)}"
        )
    after = replace(config, num_kv_heads=kv_heads)
    others = sorted({name.split(".", 2)[2] for name in _changed(config, after)} - {*PROJECTIONS})
    if others:
        raise ValueError(f"kv_heads={kv_heads}: {', '.join(others)} can't be pooled; this way of attending has to stay")
    return after


def share_heads(model: Transformer, kv_heads: int, pooling: str = "mean") -> Transformer:
    """A model whose groups of key and value heads are pooled; it shares all other weights with `model`."""
    before = model.config
    after = shared_config(before, kv_heads, pooling)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for name in _changed(before, after):
        groups = state[name].unflatten(0, (kv_heads, before.num_kv_heads // kv_heads, before.head_width))
        # In float32: 16 bits would round the sum of the heads before it is divided.
        state[name] = POOLINGS[pooling](groups.float()).flatten(0, 1).to(state[name].dtype)
    with torch.device("meta"):
        shared = Transformer(after, seed=None)
    shared.load_state_dict(state, assign=True)
    shared.source = model.source
    return shared


def _changed(before: ModelConfig, after: ModelConfig) -> list[str]:
    """The names of the weights that have another shape."""
    with torch.device("meta"):
        old, new = (Transformer(each, seed=None).state_dict() for each in (before, after))
    return [name for name, tensor in new.items() if tensor.shape != old[name].shape]
