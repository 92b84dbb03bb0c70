"""Temperature: logits are divided by it, so that below 1 the likeliest tokens gain, and above 1 the others.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor


def temperature(logits_BV: Tensor, value: float) -> Tensor:
    """`value` above 0."""
    return logits_BV / value
