"""Which representatives are worth a closer look: lists of those that are alike, a few of which a selection reads.

An inverted file over lists of keys (`block_lists.py`), as RetroInfer has it (arXiv 2505.02922). Other than there, lists
go over the whole text, for what is asked for is one name among all of a book's, wherever it stands; and a list is
judged by what its best member may score, for what is asked for is the one that is unlike the others. What stands in
lists that are not read counts as if it stood at its list's centroid.

Knows places and their representatives. Places are sorted into lists a segment at a time; those behind the last whole
segment are in no list, and everybody reads them. Leaves to others what a claim is (`block_selection.py`), and who
holds which place.

Letters: B rows, Q queries, K kv heads, D head width, N places, R representatives of a place, C lists, V lists read,
S segments, E representatives of a segment, I = V * S stretches that are read and one more, M members of the lists that
a row reads, or any number of keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.kvcache.block_lists import Lists, coarse_lists
from handscroll.kvcache.places import lasting
from handscroll.kvcache.state import State

# Places that are sorted together: a list's members in a segment stand side by side.
SEGMENT = 512
# Representatives of a kv head from which on lists pay.
FEWEST = 1 << 16
# Lists are learnt anew when there are so many times as many representatives as the last time.
GROWTH = 4
# A selection reads so many lists at most.
MOST_LISTS = 512
SMALLEST_SCALE = 1e-3


class Found(NamedTuple):
    """What each kv head finds in the lists that each row reads.

    `member_KBM`: place * R + representative, at a row's end some that count for nothing; `is_member_KBM` says which do.
    `rest_KBQ`: the log of the sum of exp(score) over all that stands in other lists, as their centroids have it.
    """

    member_KBM: Tensor
    is_member_KBM: Tensor
    rest_KBQ: Tensor


class BlockIndex:
    """Lists over the representatives of a store's places."""

    def __init__(self, segment: int = SEGMENT, fewest: int = FEWEST):
        self.segment, self.fewest = segment, fewest
        # Places that are in lists: whole segments. 0: there are too few of them.
        self.listed = 0
        self._learnt = 0
        # Segments that lists have taken in: each once, though forks that come and go write to the last one again.
        self._taken_in = 0
        self._unsorted: set[int] = set()
        # Lists are of representatives multiplied by this.
        self._scale_D: Tensor | None = None
        self._lists: Lists | None = None
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
            self._learnt, self._taken_in = segments * self.segment * each, 0
            # What does not count at all may differ as it likes, but is not divided by nothing.
            self._scale_D = scale_D.clamp(min=SMALLEST_SCALE)
            self._lists = Lists.learn(representative_KNRD[:, : segments * self.segment].flatten(1, 2), self._scale_D)
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
                self._count_KC = self._first_KSC[:, :segments].sum(dim=1).diff(dim=-1)

    def look_up(self, query_KBQD: Tensor, weight_Q: Tensor, held_B: Tensor, candidates: int) -> Found:
        """Reads the lists that a row's queries of a kv head ask for, the more of a query's the more it weighs.

        Reads on until it has found `candidates`; what is in the last list comes on top.

        query_KBQD are divided by sqrt(D); `held_B` is the share of all places that a row holds.
        """
        assert self._first_KSC is not None and self._member_KSE is not None
        assert self._scale_D is not None and self._count_KC is not None and self._lists is not None
        segments, each = self.listed // self.segment, self._member_KSE.shape[2]
        mean_KBQC, best_KBQC = self._lists.scores(query_KBQD.float() / self._scale_D)
        count_K1C = self._count_KC[:, None]
        best_KBQC.masked_fill_(count_K1C[:, None] == 0, float("-inf"))
        list_KBV = _most_wanted(best_KBQC, weight_Q, MOST_LISTS)
        size_KBV = count_K1C.expand(-1, len(held_B), -1).gather(2, list_KBV)
        is_read_KBV = size_KBV.cumsum(dim=2) - size_KBV < candidates
        is_read_KBC = torch.zeros_like(best_KBQC[:, :, 0], dtype=torch.bool).scatter_(2, list_KBV, is_read_KBV)
        rest_KBQC = (mean_KBQC + count_K1C[:, None].log()).masked_fill_(is_read_KBC[:, :, None], float("-inf"))
        rest_KBQ = rest_KBQC.logsumexp(dim=-1) + held_B.log()[:, None]

        # Lists that are read come first; where others find more members, a stretch of any follows.
        list_KBV = list_KBV[..., : int(is_read_KBV.sum(dim=2).max())]
        head_K11 = torch.arange(len(list_KBV), device=list_KBV.device)[:, None, None]
        first_KBVS = self._first_KSC[head_K11, :segments, list_KBV]
        length_KBVS = self._first_KSC[head_K11, :segments, list_KBV + 1] - first_KBVS
        length_KBI = (length_KBVS * is_read_KBV[..., : list_KBV.shape[2], None]).flatten(2)
        found_KB1 = length_KBI.sum(dim=2, keepdim=True)
        slot_M = torch.arange(int(found_KB1.max()), device=list_KBV.device)
        length_KBI = torch.cat((length_KBI, len(slot_M) - found_KB1), dim=2)
        start_KBVS = first_KBVS + torch.arange(segments, device=list_KBV.device) * each
        start_KBI = torch.nn.functional.pad(start_KBVS.flatten(2), (0, 1)) + head_K11 * self._member_KSE[0].numel()
        # How far a member stands from the slot that it is given: the same for all of a stretch.
        moved_KBI = start_KBI - length_KBI.cumsum(dim=2) + length_KBI
        moved_KBM = moved_KBI.flatten().repeat_interleave(length_KBI.flatten()).view(*found_KB1.shape[:2], -1)
        member_KBM = self._member_KSE.flatten()[slot_M + moved_KBM].long()
        return Found(member_KBM, slot_M < found_KB1, rest_KBQ)

    def state(self, places: int) -> State | None:
        """What is known of the first `places`, to be saved; None where nothing is."""
        segments = places // self.segment
        if not segments or self._lists is None or self._member_KSE is None or self._first_KSC is None:
            return None
        return {
            "segment": self.segment,
            "learnt": self._learnt,
            "taken_in": self._taken_in,
            "unsorted": sorted(self._unsorted),
            "scale": self._scale_D,
            "member": self._member_KSE[:, :segments],
            "first": self._first_KSC[:, :segments],
            "lists": self._lists.state(),
        }

    def restore(self, state: State | None, device: torch.device) -> None:
        """Empty before, knows what was saved (mutates), without learning; what was sorted otherwise is learnt anew."""
        if state is None or state["segment"] != self.segment:
            return
        self._learnt, self._taken_in = state["learnt"], state["taken_in"]
        self._unsorted = set(state["unsorted"])
        self._scale_D = state["scale"].to(device)
        self._member_KSE, self._first_KSC = state["member"].to(device), state["first"].to(device)
        self._lists = Lists.restored(state["lists"], device)

    def nbytes(self) -> int:
        """Bytes that the index holds, spare capacity included."""
        held = [self._scale_D, self._member_KSE, self._first_KSC, self._count_KC]
        held += [] if self._lists is None else vars(self._lists).values()
        return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)

    def _sort(self, segment: int, key_KED: Tensor) -> None:
        """Sorts a segment's representatives into lists (mutates)."""
        assert self._lists is not None and self._scale_D is not None
        heads, each, _ = key_KED.shape
        lists = self._lists.size
        if self._member_KSE is None or segment >= self._member_KSE.shape[1]:
            self._reserve(segment + 1, heads, each, lists, key_KED.device)
        assert self._member_KSE is not None and self._first_KSC is not None
        key_KED = key_KED.float() * self._scale_D
        list_KE = self._lists.place(key_KED)
        if segment >= self._taken_in:
            self._lists.take_in(key_KED, list_KE)
            self._taken_in = segment + 1
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
    room, size = 1 << (segments - 1).bit_length(), coarse_lists(segments * SEGMENT * each)
    members = room * (SEGMENT * each + size**2 + 1) * 4
    # Of every list its centroid, sum, squares, mean and variance; the coarse ones are few.
    return heads * (members + 5 * size**2 * width * 4)


def _most_wanted(score_KBQC: Tensor, weight_Q: Tensor, number: int) -> Tensor:
    """(K, B, V): `number` lists that rank highest with some query; a query of half the weight has half as many."""
    number = min(number, score_KBQC.shape[3])
    wanted_KBQV = score_KBQC.topk(number, dim=-1).indices
    rank_KBQV = (torch.arange(1, number + 1, device=weight_Q.device) / weight_Q[:, None]).expand_as(wanted_KBQV)
    rank_KBC = torch.full_like(score_KBQC[:, :, 0], float("inf"))
    rank_KBC.scatter_reduce_(2, wanted_KBQV.flatten(2), rank_KBQV.flatten(2), "amin")
    return rank_KBC.topk(number, largest=False).indices
