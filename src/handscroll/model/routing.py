"""Who goes to which expert: options of a mixture of experts, and the pure functions of its router.

A router scores every expert for every token; the token goes to the `top_k` with the highest scores (Shazeer et al.,
arXiv 1701.06538; with k = 2 as in GShard, arXiv 2006.16668). Nothing in that keeps experts evenly busy, so that
training adds a loss for it (Switch Transformer, arXiv 2101.03961) and one that keeps scores small (ST-MoE, arXiv
2202.08906).
Padding goes nowhere: it counts neither in a loss nor in a capacity. What an expert is stands in `experts.py`.

Letters: M tokens of all rows together, N experts, K choices of a token, P places: one for each choice that is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class ExpertOptions:
    """`count` feed-forwards of `width` features, of which a token takes `top_k`.

    `shared_width`: of one more expert that every token takes (0: there is none); several shared experts are one of
    their summed width. `shared_gate`: its output is scaled by a sigmoid of the token (Qwen2-MoE, arXiv 2407.10671).
    `renormalize`: the chosen experts' probabilities are made to sum to 1.
    `dense_layers` have the plain feed-forward of the config's own width; 0 is the first.

    What follows holds while training only, and is no part of what the model computes. `capacity_factor`: an expert
    takes at most this many times an even share of a batch's choices, and what is beyond is left out; None: takes all.
    `balance_loss` and `router_z_loss` are weights of the two losses.
    """

    count: int
    width: int
    top_k: int = 2
    shared_width: int = 0
    shared_gate: bool = False
    renormalize: bool = True
    dense_layers: tuple[int, ...] = ()
    capacity_factor: float | None = None
    balance_loss: float = 0.01
    router_z_loss: float = 0.001

    def __post_init__(self) -> None:
        for name in ("count", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"experts.{name}={getattr(self, name)}: at least 1")
        if not 1 <= self.top_k <= self.count:
            raise ValueError(f"experts.top_k={self.top_k}: a token takes 1 to {self.count} of {self.count} experts")
        if self.shared_width < 0:
            raise ValueError(f"experts.shared_width={self.shared_width}: a width, or 0 for no shared expert")
        if self.shared_gate and not self.shared_width:
            raise ValueError("experts.shared_gate=True needs a shared expert: give shared_width")
        if self.capacity_factor is not None and not 0 < self.capacity_factor < math.inf:
            raise ValueError(f"experts.capacity_factor={self.capacity_factor}: above 0, such as 1.25, or null for none")
        for name in ("balance_loss", "router_z_loss"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"experts.{name}={getattr(self, name)}: a weight, 0 or more")

    def check_layers(self, num_layers: int) -> None:
        """ValueError where `dense_layers` aren't layers, or are all of them."""
        wrong = [layer for layer in self.dense_layers if not 0 <= layer < num_layers]
        if wrong or len(set(self.dense_layers)) < len(self.dense_layers):
            raise ValueError(
                f"experts.dense_layers={self.dense_layers}: each once, and the layers are 0 to {num_layers - 1}"
            )
        if len(self.dense_layers) == num_layers:
            raise ValueError(f"experts.dense_layers={self.dense_layers} are all layers: leave experts out")


class Routed(NamedTuple):
    """What a layer's router did with the real tokens: all that its losses and statistics need.

    `asked`: how many tokens chose each expert, before capacity. `dropped`: choices that found no place.
    """

    logits_MN: Tensor
    probs_MN: Tensor
    is_real_M: Tensor
    asked: tuple[int, ...]
    dropped: int
    top_k: int

    @property
    def choices(self) -> int:
        return sum(self.asked)

    @property
    def tokens(self) -> int:
        return self.choices // self.top_k


class Choice(NamedTuple):
    """The experts of each token, best first, and what their outputs are multiplied by."""

    experts_MK: Tensor
    weights_MK: Tensor


class Dispatch(NamedTuple):
    """Places in the order of their experts. `choice_P` counts through (K, M): all first choices, then all second ones.

    `taken` places belong to each expert in turn, `asked` would have.
    """

    choice_P: Tensor
    taken: tuple[int, ...]
    asked: tuple[int, ...]


def choose(probs_MN: Tensor, top_k: int, renormalize: bool) -> Choice:
    """The `top_k` most probable experts of each token."""
    weights_MK, experts_MK = probs_MN.topk(top_k, dim=-1)
    if renormalize:
        weights_MK = weights_MK / weights_MK.sum(-1, keepdim=True)
    return Choice(experts_MK, weights_MK)


def dispatch(experts_MK: Tensor, is_real_M: Tensor, count: int, capacity_factor: float | None) -> Dispatch:
    """Sorts choices by expert. Where an expert can't take all, first choices come before second, then earlier tokens.

    A capacity is ceil(factor * choices / experts) (Switch, equation 3, of all K choices).
    """
    # Padding stands behind the last expert, where nobody reads.
    expert_KM = experts_MK.masked_fill(~is_real_M[:, None], count).T.flatten()
    asked = tuple(torch.bincount(expert_KM, minlength=count + 1)[:count].tolist())
    choice_P = expert_KM.argsort(stable=True)[: sum(asked)]
    if capacity_factor is None:
        return Dispatch(choice_P, asked, asked)
    capacity = math.ceil(capacity_factor * sum(asked) / count)
    taken = tuple(min(each, capacity) for each in asked)
    kept = [part[:most] for part, most in zip(torch.split(choice_P, list(asked)), taken, strict=True)]
    return Dispatch(torch.cat(kept), taken, asked)


def balance_loss(routed: Routed) -> Tensor:
    """N * sum of f P over experts (Switch, equations 4 to 6): its gradient makes chosen experts less probable.

    f is the share of tokens that chose an expert, P its mean probability. As in transformers the shares sum to K, so
    that even routing gives K. 0 without real tokens.
    """
    share_N = torch.tensor(routed.asked, dtype=routed.probs_MN.dtype, device=routed.probs_MN.device)
    probs_N = (routed.probs_MN * routed.is_real_M[:, None]).sum(0)
    return len(routed.asked) * (share_N * probs_N).sum() / max(1, routed.tokens) ** 2


def z_loss_sum(routed: Routed) -> Tensor:
    """Sum over real tokens of log^2 of the softmax's sum (ST-MoE, equation 5)."""
    return (routed.logits_MN.logsumexp(-1).square() * routed.is_real_M).sum()
