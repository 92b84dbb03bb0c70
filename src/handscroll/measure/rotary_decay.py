"""How scores under rotary positions change with distance: the bound of RoFormer, and what vectors make of it.

RoFormer (arXiv 2104.09864, section 3.4.3) bounds a score at distance s by a sum that gets smaller as s grows. A bound
is no score: `mean_sizes` says how large scores are of vectors that are more or less alike. Knows frequencies, and no
model.

Letters: N distances, P pairs of features, M samples, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bound(distances_N: Tensor, frequencies_P: Tensor) -> Tensor:
    """Mean of |S_j| over j = 1 to P, S_j the sum of e^(i s theta) over the first j pairs (N,), float64.

    Equations 35 to 37: a score is no larger than P times this, times the largest difference of two neighbouring pairs'
    products. At distance 0 it is (P + 1) / 2.
    """
    angles_NP = distances_N.to(torch.float64)[:, None] * frequencies_P
    return torch.polar(torch.ones_like(angles_NP), angles_NP).cumsum(1).abs().mean(1)


def same_content(distances_N: Tensor, frequencies_P: Tensor) -> Tensor:
    """What is left at a distance of the score of a normal vector with itself, as share of that at 0 (N,): the mean."""
    return (distances_N.to(torch.float64)[:, None] * frequencies_P).cos().mean(1)


def mean_sizes(
    distances_N: Tensor, frequencies_P: Tensor, likeness: float, samples: int = 4096, seed: int = 0
) -> Tensor:
    """Mean |q . R_s k| / sqrt(D) of normal q and k whose features have the correlation `likeness` (N,), drawn."""
    generator = torch.Generator().manual_seed(seed)
    query_MP, other_MP = (
        torch.randn(samples, len(frequencies_P), dtype=torch.complex128, generator=generator) for _ in range(2)
    )
    key_MP = likeness * query_MP + math.sqrt(1 - likeness**2) * other_MP
    # Of a complex normal number each part has a variance of 1/2, and is to have 1.
    products_MP = 2 * query_MP * key_MP.conj()
    angles_NP = distances_N.to(torch.float64)[:, None] * frequencies_P
    scores_NM = torch.polar(torch.ones_like(angles_NP), angles_NP) @ products_MP.mT
    return scores_NM.real.abs().mean(1) / math.sqrt(2 * len(frequencies_P))
