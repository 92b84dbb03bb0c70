"""How the next token is picked from logits: the likeliest, or drawn from a seed, after what `logits/` does to them.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.generation import logits
from handscroll.generation.options import Sampling
from handscroll.generation.seen import Seen


class Logprobs(NamedTuple):
    """Natural logarithms of probabilities as the model gives them, before any option: of the token, and of the best.

    `best`: (token, log-probability), the likeliest first.
    """

    chosen: float
    best: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Draws tokens row by row. Each row has its own random stream, so a batch gives what each prompt gives alone.

    `read`: the tokens that each row begins with, which penalties look at. `seeds`: of each row's stream, if they are
    not to be alike.
    """

    def __init__(
        self,
        options: Sampling,
        rows: int,
        *,
        read: Sequence[Sequence[int]] | None = None,
        seeds: Sequence[int] | None = None,
    ):
        self.options = options
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds or [options.seed] * rows]
        self._read = read or [[]] * rows
        self._seen: Seen | None = None

    def pick(self, logits_BV: Tensor, rows: Sequence[int]) -> list[int]:
        """One token id per row of logits; `rows` says which rows these are (mutates their streams and what was said).

        ValueError where a row's options leave it no token.
        """
        options = self.options
        if self._seen is None:
            self._seen = Seen(options.penalties, self._read, logits_BV.shape[-1], logits_BV.device)
        logits_BV = penalized(logits_BV, options, self._seen, rows)
        if options.temperature == 0:
            picked: list[int] = logits_BV.argmax(dim=-1).tolist()
        else:
            probabilities_BV = filtered(logits_BV.float(), options).softmax(dim=-1).cpu()
            picked = [
                int(torch.multinomial(probabilities_V, 1, generator=self.generators[row]))
                for row, probabilities_V in zip(rows, probabilities_BV, strict=True)
            ]
        self._seen.add(rows, picked)
        return picked


def penalized(logits_BV: Tensor, options: Sampling, seen: Seen, rows: Sequence[int]) -> Tensor:
    """The logits of some rows after bias and penalties. ValueError where they forbid every token."""
    penalties, before_BV = options.penalties, logits_BV
    if options.logit_bias:
        logits_BV = logits.bias(logits_BV, options.logit_bias)
    if seen.is_seen_BV is not None:
        logits_BV = logits.repetition(logits_BV, seen.is_seen_BV[list(rows)], penalties.repetition)
    if seen.tokens_BT is not None:
        pairs = zip(logits_BV, rows, strict=True)
        logits_BV = torch.stack(
            [
                logits.no_repeat_ngram(logits_V, seen.tokens_BT[row], penalties.no_repeat_ngram)
                for logits_V, row in pairs
            ]
        )
    if seen.counts_BV is not None:
        logits_BV = logits.occurrences(logits_BV, seen.counts_BV[list(rows)], penalties.presence, penalties.frequency)
    if logits_BV is not before_BV and bool((logits_BV.amax(dim=-1) == float("-inf")).any()):
        raise ValueError("logit_bias and no_repeat_ngram leave no token that might come next: forbid fewer")
    return logits_BV


def filtered(logits_BV: Tensor, options: Sampling) -> Tensor:
    """The logits at the temperature, without the tokens that the options leave out."""
    logits_BV = logits.temperature(logits_BV, options.temperature)
    if options.top_k:
        logits_BV = logits.top_k(logits_BV, options.top_k)
    if options.top_p < 1:
        logits_BV = logits.top_p(logits_BV, options.top_p)
    if options.min_p:
        logits_BV = logits.min_p(logits_BV, options.min_p)
    if options.typical < 1:
        logits_BV = logits.typical(logits_BV, options.typical)
    return logits_BV


def logprobs_of(logits_BV: Tensor, tokens: Sequence[int], best: int) -> list[Logprobs]:
    """Of each row the log-probability of its token, and the `best` likeliest tokens with theirs."""
    logprobs_BV = logits_BV.float().log_softmax(dim=-1)
    chosen = logprobs_BV.gather(1, torch.tensor(tokens, device=logits_BV.device)[:, None])[:, 0].tolist()
    values, ids = (each.tolist() for each in logprobs_BV.topk(best, dim=-1))
    told = zip(chosen, ids, values, strict=True)
    return [Logprobs(value, tuple(zip(row_ids, row, strict=True))) for value, row_ids, row in told]
