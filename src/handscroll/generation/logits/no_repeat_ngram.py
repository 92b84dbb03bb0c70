"""No n-gram twice: a token is forbidden where it would complete n tokens that the text has already.

As in fairseq, and in arXiv 1705.04304 (section 2.5) with n = 3.

Letters: T tokens of the text so far, V vocabulary, n the size.
"""

from __future__ import annotations

from torch import Tensor


def no_repeat_ngram(logits_V: Tensor, tokens_T: Tensor, size: int) -> Tensor:
    """One row, as texts are of different lengths. The search is anew each time, and linear in T."""
    ends = len(tokens_T) - size + 1
    if ends < 1:
        return logits_V
    follows_N = tokens_T[size - 1 :]
    repeats_N = follows_N == follows_N
    for place in range(size - 1):
        repeats_N &= tokens_T[place : place + ends] == tokens_T[ends + place]
    return logits_V.index_fill(0, follows_N[repeats_N], float("-inf"))
