"""DeepNorm's two numbers (arXiv 2203.00555, the table of its figure 2), which follow from depth alone.

A post-norm block whose stream is scaled up by alpha and whose values, outputs and feed-forward start scaled down by
beta: together one step moves what the model computes by as much at 4 layers as at 1000. An encoder alone and a decoder
alone have the same formulas; that of an encoder with a decoder is another, and no model here.
"""

from __future__ import annotations

import math


def alpha(layers: int) -> float:
    """The factor of the residual stream: x becomes norm(alpha x + f(x))."""
    return math.pow(2 * layers, 0.25)


def beta(layers: int) -> float:
    """The gain of v, o and the feed-forward's matrices, beside a gain of 1 of q and k."""
    return math.pow(8 * layers, -0.25)
