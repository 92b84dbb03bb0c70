"""What routers of experts add to an objective: their losses as terms, how evenly experts are used as metrics.

Knows what a forward pass told (`Hidden.aux`). The formulas stand in `model/routing.py`, their weights in the model's
config. Both losses are means over tokens and layers. A product of two means, the balance loss is taken of each micro
batch by itself, as is usual, and weighs by its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from handscroll.model import Hidden, Transformer
from handscroll.model.block import Told
from handscroll.model.routing import ExpertOptions, Routed, balance_loss, z_loss_sum
from handscroll.training.objectives.objective import Loss, Share, Term


def joined(terms: Mapping[str, Term], metrics: Mapping[str, float | Share], hidden: Hidden, model: Transformer) -> Loss:
    """An objective's own terms and metrics, those of routers, and what else the forward told."""
    router = router_loss(hidden.aux, model.config.experts)
    return Loss({**terms, **router.terms}, {**metrics, **router.metrics}, {"model": hidden.aux})


def router_loss(told: Sequence[Told], options: ExpertOptions | None) -> Loss:
    """Terms "balance" and "router_z", where they have a weight, and metrics; nothing of a model without experts.

    `busiest_expert` and `idlest_expert`: their choices as multiples of an even share, means over layers.
    `dropped_choices`: the share that a capacity left out.
    """
    routed = [each.aux for each in told if isinstance(each.aux, Routed)]
    if options is None or not routed:
        return Loss({}, {})
    # One tensor for both, which tells whoever differentiates that they can be taken together.
    tokens = torch.tensor(sum(each.tokens for each in routed), device=routed[0].logits_MN.device)
    terms = {}
    if options.balance_loss:
        balance = torch.stack([balance_loss(each) * each.tokens for each in routed]).sum()
        terms["balance"] = Term(balance, tokens, options.balance_loss)
    if options.router_z_loss:
        z = torch.stack([z_loss_sum(each) for each in routed]).sum()
        terms["router_z"] = Term(z, tokens, options.router_z_loss)
    even = [max(1, each.choices) / len(each.asked) for each in routed]
    metrics = {
        "busiest_expert": sum(max(each.asked) / share for each, share in zip(routed, even, strict=True)) / len(routed),
        "idlest_expert": sum(min(each.asked) / share for each, share in zip(routed, even, strict=True)) / len(routed),
    }
    if options.capacity_factor is not None:
        metrics["dropped_choices"] = sum(each.dropped for each in routed) / max(1, sum(each.choices for each in routed))
    return Loss(terms, metrics)
