"""Mixture of experts in the feed-forward slot: many feed-forwards, of which each token takes a few.

Parameters grow with the number of experts, the work of a token only with those that it takes. Tokens are sorted by
expert, so that each expert is one product over the tokens that chose it. Experts are modules of their own: optimizers,
quantization and `lay_by_columns` see plain matrices, and a token that is generated reads only those of its experts.
Measured on a CPU at one thread against one tensor of all experts' weights: with 8 experts slices and `grouped_mm` take
the same time, with 64 narrow ones (width 96) 10 to 20 % less; `bmm` over padded groups takes 15 to 50 % more.

Choosing and the router's losses stand in `routing.py`. Letters: B batch, T tokens, E model width, N experts, K choices
of a token, M = B * T tokens of all rows together, P places: one for each choice that is taken.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handscroll.model.config import ModelConfig, chosen
from handscroll.model.feedforward import FEEDFORWARDS
from handscroll.model.layout import Layout
from handscroll.model.routing import Choice, Routed, choose, dispatch


class Experts(nn.Module):
    """sum over the K chosen experts of weight * expert(x), and what the shared expert adds.

    Experts are feed-forwards of the kind that the config names. The router works in float32 whatever the model's dtype:
    in 16 bits close scores would be ties.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        options = config.experts
        assert options is not None, "a config without experts has a dense feed-forward"
        feedforward = chosen("feedforward", config.feedforward, FEEDFORWARDS)
        self.options = options
        self.router = nn.Linear(config.width, options.count, bias=False)
        one = replace(config, experts=None, feedforward_width=options.width)
        self.experts = nn.ModuleList(feedforward(one) for _ in range(options.count))
        if options.shared_width:
            self.shared = feedforward(replace(one, feedforward_width=options.shared_width))
        if options.shared_gate:
            self.shared_gate = nn.Linear(config.width, 1, bias=False)

    def forward(self, x_BTE: Tensor, layout: Layout) -> tuple[Tensor, Routed]:
        options, x_ME = self.options, x_BTE.flatten(0, 1)
        is_real_M = (layout.index_BT >= 0).flatten()
        logits_MN = self._scores(x_ME)
        probs_MN = logits_MN.softmax(-1)
        choice = choose(probs_MN, options.top_k, options.renormalize)
        if layout.lengths == (1,) and len(x_ME) == 1 and not torch.is_grad_enabled():
            out_ME, asked, dropped = *self._run_one(x_ME, choice, layout), 0
        else:
            # Capacity would let a token's result depend on its neighbours: in training only, as with dropout.
            capacity_factor = options.capacity_factor if self.training else None
            sent = dispatch(choice.experts_MK, is_real_M, options.count, capacity_factor)
            out_PE = self._run(x_ME.index_select(0, sent.choice_P % len(x_ME)), sent.taken, layout)
            out_ME = _joined(out_PE, sent.choice_P, choice.weights_MK)
            asked, dropped = sent.asked, sum(sent.asked) - sum(sent.taken)
        out_BTE = out_ME.view_as(x_BTE)
        if options.shared_width:
            out_BTE = out_BTE + self._shared(x_BTE, layout)
        return out_BTE, Routed(logits_MN, probs_MN, is_real_M, asked, dropped, options.top_k)

    def _scores(self, x_ME: Tensor) -> Tensor:
        exact = torch.float64 if x_ME.dtype == torch.float64 else torch.float32
        with torch.autocast(x_ME.device.type, enabled=False):
            return F.linear(x_ME.to(exact), self.router.weight.to(exact))

    def _run(self, x_PE: Tensor, taken: tuple[int, ...], layout: Layout) -> Tensor:
        """Each expert on its own places, which follow one another; behind the last place one more of zeros."""
        # While training also those that nobody chose: their gradient is 0, and optimizers move all alike.
        outputs = [
            expert(part_PE[None], layout)[0][0]
            for expert, part_PE in zip(self.experts, torch.split(x_PE, list(taken)), strict=True)
            if len(part_PE) or torch.is_grad_enabled()
        ]
        return torch.cat([*outputs, (outputs[0] if outputs else x_PE).new_zeros(1, x_PE.shape[1])])

    def _run_one(self, x_1E: Tensor, choice: Choice, layout: Layout) -> tuple[Tensor, tuple[int, ...]]:
        """One token, as in generation, and who was asked: nothing is to be sorted, which takes as long as an expert."""
        chosen = choice.experts_MK[0].tolist()
        outputs = [self.experts[number](x_1E[None], layout)[0][0] for number in chosen]
        asked = tuple(int(number in chosen) for number in range(self.options.count))
        return choice.weights_MK.to(outputs[0].dtype) @ torch.cat(outputs), asked

    def _shared(self, x_BTE: Tensor, layout: Layout) -> Tensor:
        shared_BTE: Tensor = self.shared(x_BTE, layout)[0]
        return self.shared_gate(x_BTE).sigmoid() * shared_BTE if self.options.shared_gate else shared_BTE


def _joined(out_PE: Tensor, choice_P: Tensor, weights_MK: Tensor) -> Tensor:
    """(M, E): each token's weighted sum; a choice that found no place fetches the zeros behind the last one."""
    tokens, top_k = weights_MK.shape
    # Fetched, not added where they belong: that keeps nothing for the backward pass, and always sums in one order.
    place_C = choice_P.new_full((top_k * tokens,), len(choice_P))
    place_C[choice_P] = torch.arange(len(choice_P), device=choice_P.device)
    out_KME = out_PE.index_select(0, place_C).view(top_k, tokens, -1)
    return (out_KME * weights_MK.T[..., None].to(out_PE.dtype)).sum(0)


def make_feedforward(config: ModelConfig, layer: int) -> nn.Module:
    """What fills the feed-forward slot of a layer, 0 the first."""
    if config.experts is not None and layer not in config.experts.dense_layers:
        return Experts(config)
    return chosen("feedforward", config.feedforward, FEEDFORWARDS)(config)
