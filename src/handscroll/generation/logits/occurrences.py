"""Presence and frequency penalties, as OpenAI's API defines them: what was said before loses likelihood.

    logit[j] -= count[j] * frequency + (count[j] > 0) * presence

count[j]: how often token j was generated; the prompt doesn't count.
https://platform.openai.com/docs/advanced-usage#frequency-and-presence-penalties

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor


def occurrences(logits_BV: Tensor, counts_BV: Tensor, presence: float, frequency: float) -> Tensor:
    """Negative penalties raise."""
    return logits_BV - counts_BV * frequency - (counts_BV > 0) * presence
