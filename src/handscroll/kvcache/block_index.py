"""Which representatives are worth a closer look: lists of those that are alike, a few of which a selection reads.

An inverted file: representatives of each kv head are clustered by k-means, as RetroInfer does with keys (arXiv
2505.02922), in two steps, so that a new one is compared with few centroids. Other than there, lists go over the whole
text, for what is asked for is one name among all of a book's, wherever it stands; and a list is judged by what its best
member may score, mean plus `SPREAD` standard deviations, for what is asked for is the one that is unlike the others.
What stands in lists that are not read counts as if it stood at its list's centroid.

Knows places and their representatives. Places are sorted into lists a segment at a time; those behind the last whole
segment are in no list, and everybody reads them. Leaves to others what a claim is (`block_selection.py`), and who
holds which place.

Letters: B rows, Q queries, K kv heads, D head width, N places, R representatives of a place, C lists, V lists read,
A coarse lists, F fine lists of a coarse one (C = A * F), S segments, E representatives of a segment, X members found,
M members of the lists that a row reads, or any number of keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.kvcache.places import lasting

# Places that are sorted together: a list's members in a segment stand side by side.
SEGMENT = 1024
# Representatives of a kv head from which on lists pay.
FEWEST = 1 << 16
# Lists are learnt anew when there are so many times as many representatives as the last time.
GROWTH = 4
# For each centroid so many representatives are looked at while learning, so many times.
SAMPLES, ROUNDS = 16, 5
# A selection reads so many lists at most.
MOST_LISTS = 512
# Standard deviations above its mean at which a list's best member is expected.
SPREAD = 4.0
# A list's variances are those of so many members of an average list, and of its own.
PRIOR = 4.0
SMALLEST_SCALE = 1e-3


class Found(NamedTuple):
    """What a kv head finds in the lists that each row reads.

    `member_BM`: place * R + representative, padded at the end; `is_member_BM` says which are real. `rest_BQ`: the log
    of the sum of exp(score) over all that stands in other lists, as their centroids have it.
    """

    member_BM: Tensor
    is_member_BM: Tensor
    rest_BQ: Tensor


class BlockIndex:
    """Lists over the representatives of a store's places."""

    def __init__(self, segment: int = SEGMENT, fewest: int = FEWEST):
        self.segment, self.fewest = segment, fewest
        # Places that are in lists: whole segments. 0: there are too few of them.
        self.listed = 0
        self._learnt = 0
        self._unsorted: set[int] = set()
        # Lists are of representatives multiplied by this.
        self._scale_D: Tensor | None = None
        self._lists: list[Lists] = []
        # Members in the order of their lists; where each list begins in a segment, and where the last one ends.
        self._member_KSE: Tensor | None = None
        self._first_KSC: Tensor | None = None
        self._count_KC: Tensor | None = None

    def written(self, places: Iterable[int]) -> None:
        """These places hold other representatives than before (mutates)."""
        self._unsorted.update(place // self.segment for place in places)

    def update(self, representative_KNRD: Tensor, scale_D: Tensor) -> None:
        """Sorts into lists what was written (mutates), and learns new lists where it is time to.

        scale_D: what a difference in each feature counts for a score.
        """
        with lasting():
            self._update(representative_KNRD, scale_D)

    def _update(self, representative_KNRD: Tensor, scale_D: Tensor) -> None:
        _, number, each, _ = representative_KNRD.shape
        segments = number // self.segment if number * each >= self.fewest else 0
        if segments and segments * self.segment * each >= GROWTH * self._learnt:
            self._learnt = segments * self.segment * each
            # What does not count at all may differ as it likes, but is not divided by nothing.
            self._scale_D = scale_D.clamp(min=SMALLEST_SCALE)
            keys_KMD = representative_KNRD[:, : segments * self.segment].flatten(1, 2)
            self._lists = [Lists.learn(key_MD.float() * self._scale_D) for key_MD in keys_KMD]
            self._member_KSE = self._first_KSC = None
            self._unsorted.update(range(segments))
        due = sorted(segment for segment in self._unsorted if segment < segments)
        for segment in due:
            span = slice(segment * self.segment, (segment + 1) * self.segment)
            self._sort(segment, representative_KNRD[:, span].flatten(1, 2))
        self._unsorted.difference_update(due)
        if due or segments * self.segment != self.listed:
            self.listed = segments * self.segment
            if segments:
                assert self._first_KSC is not None
                self._count_KC = self._first_KSC[:, :segments].diff(dim=-1).sum(dim=1)

    def look_up(self, head: int, query_BQD: Tensor, weight_Q: Tensor, held_B: Tensor, candidates: int) -> Found:
        """Reads the lists that a row's queries of one kv head ask for, the more of a query's the more it weighs.

        Reads on until it has found `candidates`; what is in the last list comes on top.

        query_BQD are divided by sqrt(D); `held_B` is the share of all places that a row holds.
        """
        assert self._first_KSC is not None and self._member_KSE is not None
        assert self._scale_D is not None and self._count_KC is not None
        segments, each = self.listed // self.segment, self._member_KSE.shape[2]
        mean_BQC, best_BQC = self._lists[head].scores(query_BQD.float() / self._scale_D)
        count_C = self._count_KC[head]
        list_BV = _most_wanted(best_BQC.masked_fill_(count_C == 0, float("-inf")), weight_Q, MOST_LISTS)
        size_BV = count_C[list_BV]
        is_read_BV = size_BV.cumsum(dim=1) - size_BV < candidates
        is_rest_BC = torch.ones(len(list_BV), len(count_C), dtype=torch.bool, device=list_BV.device)
        is_rest_BC.scatter_(1, list_BV, ~is_read_BV)
        rest_BQC = (mean_BQC + count_C.log()).masked_fill_(~is_rest_BC[:, None], float("-inf"))
        rest_BQ = rest_BQC.logsumexp(dim=-1) + held_B.log()[:, None]

        first_SC = self._first_KSC[head, :segments]
        first_BVS, last_BVS = first_SC[:, list_BV].permute(1, 2, 0), first_SC[:, list_BV + 1].permute(1, 2, 0)
        start_BVS = first_BVS + torch.arange(segments, device=first_SC.device) * each
        length_BI = ((last_BVS - first_BVS) * is_read_BV[..., None]).flatten(1)
        end_BI = length_BI.cumsum(dim=1)
        found_B = end_BI[:, -1]
        slot_M = torch.arange(int(found_B.max()), device=first_SC.device)
        is_member_BM = slot_M < found_B[:, None]
        # Of each member found: the stretch of a segment that it is in, and how far it is from where that begins.
        stretch_X = torch.repeat_interleave(length_BI.flatten())
        place_X = slot_M.expand_as(is_member_BM)[is_member_BM]
        place_X += (start_BVS.flatten() + (length_BI - end_BI).flatten())[stretch_X]
        member_BM = torch.zeros_like(is_member_BM, dtype=torch.int64)
        member_BM[is_member_BM] = self._member_KSE[head].flatten()[place_X].long()
        return Found(member_BM, is_member_BM, rest_BQ)

    def nbytes(self) -> int:
        """Bytes that the index holds, spare capacity included."""
        held = [self._scale_D, self._member_KSE, self._first_KSC, self._count_KC]
        held += [tensor for lists in self._lists for tensor in vars(lists).values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)

    def _sort(self, segment: int, key_KED: Tensor) -> None:
        """Sorts a segment's representatives into lists (mutates)."""
        heads, each, _ = key_KED.shape
        lists = self._lists[0].size
        if self._member_KSE is None or segment >= self._member_KSE.shape[1]:
            self._reserve(segment + 1, heads, each, lists, key_KED.device)
        assert self._member_KSE is not None and self._first_KSC is not None and self._scale_D is not None
        key_KED = key_KED.float() * self._scale_D
        list_KE = torch.stack([own.place(key_ED) for own, key_ED in zip(self._lists, key_KED, strict=True)])
        list_KE, order_KE = list_KE.sort(dim=-1)
        self._member_KSE[:, segment] = (order_KE + segment * each).int()
        borders_KC = torch.arange(lists + 1, device=key_KED.device).expand(heads, -1).contiguous()
        self._first_KSC[:, segment] = torch.searchsorted(list_KE, borders_KC).int()

    def _reserve(self, segments: int, heads: int, each: int, lists: int, device: torch.device) -> None:
        held = 0 if self._member_KSE is None else self._member_KSE.shape[1]
        room = max(segments, 2 * held)
        for name, width in (("_member_KSE", each), ("_first_KSC", lists + 1)):
            grown = torch.zeros(heads, room, width, dtype=torch.int32, device=device)
            if held:
                grown[:, :held] = getattr(self, name)
            setattr(self, name, grown)


def planned_index(places: int, representative_NKRD: Tensor) -> int:
    """About the bytes of an index over so many places whose representatives are like these."""
    _, heads, each, width = representative_NKRD.shape
    if places * each < FEWEST:
        return 0
    segments = places // SEGMENT
    room, size = 1 << (segments - 1).bit_length(), _lists_of(segments * SEGMENT * each)
    members = room * (SEGMENT * each + size**2 + 1) * 4
    # Of every list its centroid, sum, squares, mean and variance; the coarse ones are few.
    return heads * (members + 5 * size**2 * width * 4)


def _lists_of(number: int) -> int:
    """Coarse lists of so many keys, and fine ones of each: a power of two, about 4 M^(1/4)."""
    return 4 << number.bit_length() // 4


class Lists:
    """The lists of one kv head: which one a key belongs to, and what a query may score there."""

    def __init__(self, coarse_AD: Tensor, fine_AFD: Tensor):
        self.coarse_AD, self.fine_AFD = coarse_AD, fine_AFD
        centroid_CD = fine_AFD.flatten(0, 1)
        # Of all that was ever placed, as differences from the fine centroid: how many, their sum, their squares' sum.
        self.count_C1 = torch.zeros_like(centroid_CD[:, :1])
        self.sum_CD, self.square_CD = torch.zeros_like(centroid_CD), torch.zeros_like(centroid_CD)
        self.mean_CD: Tensor | None = None
        self.variance_CD: Tensor | None = None

    @classmethod
    def learn(cls, key_MD: Tensor) -> Lists:
        """As many fine lists of each coarse one as there are coarse ones."""
        size = _lists_of(len(key_MD))
        generator = torch.Generator().manual_seed(len(key_MD))
        sample_M = torch.randperm(len(key_MD), generator=generator)[: SAMPLES * size**2].to(key_MD.device)
        sample_MD = key_MD[sample_M]
        coarse_AD = k_means(sample_MD[: SAMPLES**2 * size], size)
        list_M = nearest(sample_MD, coarse_AD)
        return cls(coarse_AD, torch.stack([k_means(sample_MD[list_M == coarse], size) for coarse in range(size)]))

    @property
    def size(self) -> int:
        return len(self.count_C1)

    def place(self, key_MD: Tensor) -> Tensor:
        """The list of each key (M,); what is known of lists takes them in (mutates)."""
        coarse_M, order_M = nearest(key_MD, self.coarse_AD).sort()
        counts = torch.bincount(coarse_M, minlength=len(self.coarse_AD)).tolist()
        pieces = zip(torch.split(key_MD[order_M], counts), self.fine_AFD, strict=True)
        fine_M = torch.cat([nearest(piece_MD, fine_FD) for piece_MD, fine_FD in pieces])
        list_M = torch.empty_like(coarse_M)
        list_M[order_M] = coarse_M * self.fine_AFD.shape[1] + fine_M
        difference_MD = key_MD - self.fine_AFD.flatten(0, 1)[list_M]
        self.count_C1.index_add_(0, list_M, torch.ones_like(key_MD[:, :1]))
        self.sum_CD.index_add_(0, list_M, difference_MD)
        self.square_CD.index_add_(0, list_M, difference_MD**2)
        self.mean_CD = self.variance_CD = None
        return list_M

    def scores(self, query_BQD: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Q, C) twice: what a query scores on average in each list, and at best, as far as its spread tells."""
        if self.mean_CD is None or self.variance_CD is None:
            self._describe()
        assert self.mean_CD is not None and self.variance_CD is not None
        mean_BQC = query_BQD @ self.mean_CD.T
        return mean_BQC, mean_BQC + SPREAD * (query_BQD**2 @ self.variance_CD.T).sqrt()

    def _describe(self) -> None:
        """Mean and variance of each list (mutates)."""
        count_C1 = self.count_C1.clamp(min=1)
        moved_CD = self.sum_CD / count_C1
        scatter_CD = (self.square_CD - self.sum_CD * moved_CD).clamp_(min=0)
        usual_D = scatter_CD.sum(dim=0) / self.count_C1.sum()
        self.mean_CD = self.fine_AFD.flatten(0, 1) + moved_CD
        self.variance_CD = (scatter_CD + PRIOR * usual_D) / (self.count_C1 + PRIOR)


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


def _most_wanted(score_BQC: Tensor, weight_Q: Tensor, number: int) -> Tensor:
    """(B, V): `number` lists that rank highest with some query; a query of half the weight has half as many."""
    number = min(number, score_BQC.shape[2])
    wanted_BQV = score_BQC.topk(number, dim=-1).indices
    rank_BQV = (torch.arange(1, number + 1, device=weight_Q.device) / weight_Q[:, None]).expand_as(wanted_BQV)
    rank_BC = torch.full_like(score_BQC[:, 0], float("inf"))
    rank_BC.scatter_reduce_(1, wanted_BQV.flatten(1), rank_BQV.flatten(1), "amin")
    return rank_BC.topk(number, largest=False).indices
