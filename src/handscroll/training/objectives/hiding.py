"""Which tokens of a batch are hidden, and what is put in their place (BERT, arXiv 1810.04805, appendix A.1).

Of the tokens that are chosen 80 % become the mask token, 10 % a random one and 10 % stay, so that the model can't know
which of the tokens it sees are right and must have something to tell of each. Which tokens may be chosen, and in what
units, is the objective's business.

B windows, T tokens, N hidden tokens of all windows, E model width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from handscroll.kernels.likelihood import Likelihood, cross_entropy_sum
from handscroll.model import Transformer

MASKED, RANDOM = 0.8, 0.1


def check_masked(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"masked={share}: the share of tokens that are hidden, above 0 and below 1")


def choose(may_BT: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Each place that may be chosen with probability `share`; one of them where chance gives none. Boolean (B, T)."""
    chosen_BT = may_BT & (torch.rand(may_BT.shape, generator=rng) < share)
    if not chosen_BT.any() and may_BT.any():
        places_N2 = may_BT.nonzero()
        row, place = places_N2[torch.randint(len(places_N2), (), generator=rng)]
        chosen_BT[row, place] = True
    return chosen_BT


def hide(
    tokens_BT: Tensor,
    chosen_BT: Tensor,
    mask_id: int,
    vocab_size: int,
    rng: torch.Generator,
    lead_BT: Tensor | None = None,
) -> Tensor:
    """The tokens with the chosen ones hidden; random ones are of the whole vocabulary, as in BERT's code. Pure.

    Tokens with the same number in `lead_BT`, a place of the flattened batch, are hidden in the same way. Of any shape.
    """
    draw_BT = torch.rand(tokens_BT.shape, generator=rng)
    if lead_BT is not None:
        draw_BT = draw_BT.flatten()[lead_BT]
    random_BT = torch.randint(vocab_size, tokens_BT.shape, generator=rng)
    hidden_BT = torch.where(chosen_BT & (draw_BT < MASKED), mask_id, tokens_BT)
    return torch.where(chosen_BT & (draw_BT >= MASKED) & (draw_BT < MASKED + RANDOM), random_BT, hidden_BT)


def told_tokens(model: Transformer, hidden_NE: Tensor, targets_N: Tensor, chunk: int) -> Likelihood:
    """How likely, and how often right, the model tells hidden tokens from their hidden states."""
    return cross_entropy_sum(
        model.features(hidden_NE), model.output_weight_VE, targets_N, bias_V=model.output_bias_V, chunk=chunk
    )
