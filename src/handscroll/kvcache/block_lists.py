"""Lists of keys that are alike, for each kv head: k-means, and what is known of a list without reading it.

Keys are clustered in two steps, coarse and fine, so that a new one is compared with few centroids. What a list's best
member may score is its mean plus `SPREAD` standard deviations. Knows keys and queries only; where they come from, and
which lists are read, is the business of `block_index.py`.

Letters: B rows, Q queries, K kv heads, D head width, A coarse lists, F fine lists of a coarse one, C = A * F lists,
E keys of a head, M any number of keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from handscroll.kvcache.state import State

# For each centroid so many representatives are looked at while learning, so many times.
SAMPLES, ROUNDS = 16, 5
# Standard deviations above its mean at which a list's best member is expected.
SPREAD = 4.0
# A list's variances are those of so many members of an average list, and of its own.
PRIOR = 4.0


class Lists:
    """Lists of each kv head, as many for each: which one a key belongs to, and what a query may score there."""

    def __init__(self, coarse_KAD: Tensor, fine_KAFD: Tensor):
        self.coarse_KAD, self.fine_KAFD = coarse_KAD, fine_KAFD
        centroid_KCD = fine_KAFD.flatten(1, 2)
        # Of all that was taken in, as differences from the fine centroid: how many, their sum, their squares' sum.
        self.count_KC1 = torch.zeros_like(centroid_KCD[..., :1])
        self.sum_KCD, self.square_KCD = torch.zeros_like(centroid_KCD), torch.zeros_like(centroid_KCD)
        self.mean_KCD: Tensor | None = None
        self.variance_KCD: Tensor | None = None

    @classmethod
    def learn(cls, key_KMD: Tensor, scale_D: Tensor) -> Lists:
        """As many fine lists of each coarse one as there are coarse ones."""
        number = key_KMD.shape[1]
        size, generator = coarse_lists(number), torch.Generator().manual_seed(number)
        sample_M = torch.randperm(number, generator=generator)[: SAMPLES * size**2].to(key_KMD.device)
        coarse, fine = [], []
        for sample_MD in key_KMD.index_select(1, sample_M).float() * scale_D:
            coarse.append(k_means(sample_MD[: SAMPLES**2 * size], size))
            list_M = nearest(sample_MD, coarse[-1])
            fine.append(torch.stack([k_means(sample_MD[list_M == number], size) for number in range(size)]))
        return cls(torch.stack(coarse), torch.stack(fine))

    def state(self) -> State:
        """What is known, to be saved; not what follows from it."""
        return {name: value for name, value in vars(self).items() if name not in ("mean_KCD", "variance_KCD")}

    @classmethod
    def restored(cls, state: State, device: torch.device) -> Lists:
        lists = cls(state["coarse_KAD"].to(device), state["fine_KAFD"].to(device))
        for name, value in state.items():
            setattr(lists, name, value.to(device))
        return lists

    @property
    def size(self) -> int:
        return self.count_KC1.shape[1]

    def place(self, key_KED: Tensor) -> Tensor:
        """The list of each key (K, E)."""
        (heads, coarse, fine, _), key_MD = self.fine_KAFD.shape, key_KED.flatten(0, 1)
        # Lists are numbered through all heads, so that all of them take one loop.
        near = [nearest(key_ED, coarse_AD) for key_ED, coarse_AD in zip(key_KED, self.coarse_KAD, strict=True)]
        head_K1 = torch.arange(heads, device=key_MD.device)[:, None]
        coarse_M, order_M = (torch.stack(near) + coarse * head_K1).flatten().sort()
        counts = torch.bincount(coarse_M, minlength=heads * coarse).tolist()
        pieces = zip(torch.split(key_MD.index_select(0, order_M), counts), self.fine_KAFD.flatten(0, 1), strict=True)
        fine_M = torch.cat([nearest(piece_MD, fine_FD) for piece_MD, fine_FD in pieces])
        list_M = torch.empty_like(coarse_M)
        list_M[order_M] = coarse_M * fine + fine_M
        return list_M.view(heads, -1) - self.size * head_K1

    def take_in(self, key_KED: Tensor, list_KE: Tensor) -> None:
        """These keys stand in these lists: what is known of them changes (mutates)."""
        key_MD, head_K1 = key_KED.flatten(0, 1), torch.arange(len(key_KED), device=key_KED.device)[:, None]
        list_M = (list_KE + self.size * head_K1).flatten()
        difference_MD = key_MD - self.fine_KAFD.flatten(0, 2).index_select(0, list_M)
        self.count_KC1.flatten(0, 1).index_add_(0, list_M, torch.ones_like(key_MD[:, :1]))
        self.sum_KCD.flatten(0, 1).index_add_(0, list_M, difference_MD)
        self.square_KCD.flatten(0, 1).index_add_(0, list_M, difference_MD**2)
        self.mean_KCD = self.variance_KCD = None

    def scores(self, query_KBQD: Tensor) -> tuple[Tensor, Tensor]:
        """(K, B, Q, C) twice: what a query scores on average in each list, and at best, as far as its spread tells."""
        if self.mean_KCD is None or self.variance_KCD is None:
            self._describe()
        assert self.mean_KCD is not None and self.variance_KCD is not None
        query_KMD = query_KBQD.flatten(1, 2)
        mean_KMC = query_KMD @ self.mean_KCD.mT
        best_KMC = mean_KMC + SPREAD * (query_KMD**2 @ self.variance_KCD.mT).sqrt_()
        return mean_KMC.view(*query_KBQD.shape[:3], -1), best_KMC.view(*query_KBQD.shape[:3], -1)

    def _describe(self) -> None:
        """Mean and variance of each list (mutates)."""
        count_KC1 = self.count_KC1.clamp(min=1)
        moved_KCD = self.sum_KCD / count_KC1
        scatter_KCD = (self.square_KCD - self.sum_KCD * moved_KCD).clamp_(min=0)
        usual_K1D = scatter_KCD.sum(dim=1, keepdim=True) / self.count_KC1.sum(dim=1, keepdim=True)
        self.mean_KCD = self.fine_KAFD.flatten(1, 2) + moved_KCD
        self.variance_KCD = (scatter_KCD + PRIOR * usual_K1D) / (self.count_KC1 + PRIOR)


def coarse_lists(number: int) -> int:
    """Coarse lists of so many keys, and fine ones of each: a power of two, about 4 M^(1/4)."""
    return 4 << number.bit_length() // 4


def nearest(key_MD: Tensor, centroid_CD: Tensor) -> Tensor:
    """(M,): the nearest centroid of each key."""
    return torch.addmm((centroid_CD**2).sum(dim=-1) / 2, key_MD, centroid_CD.T, beta=-1).argmax(dim=-1)


def k_means(key_MD: Tensor, size: int) -> Tensor:
    """(size, D): centroids of keys in random order, which the first ones start as; zeros where there are too few."""
    centroid_CD = key_MD.new_zeros(size, key_MD.shape[1])
    centroid_CD[: len(key_MD)] = key_MD[:size]
    for _ in range(ROUNDS):
        list_M = nearest(key_MD, centroid_CD)
        count_C1 = torch.zeros_like(centroid_CD[:, :1]).index_add_(0, list_M, torch.ones_like(key_MD[:, :1]))
        sum_CD = torch.zeros_like(centroid_CD).index_add_(0, list_M, key_MD)
        centroid_CD = torch.where(count_C1 > 0, sum_CD / count_C1, centroid_CD)
    return centroid_CD
