"""What a way of attending can't be combined with, said when the model is configured and not in its first forward."""

from __future__ import annotations

from handscroll.model.config import ModelConfig


def refuse(
    config: ModelConfig, what: str, *, masks: tuple[str, ...], bias: bool = False, dropout: bool = False
) -> None:
    """ValueError unless the mask is one of `masks`, for a sliding window, and for what `what` can't do.

    That is: add a position's bias to scores, drop weights, which have to be there for it.
    """
    if config.mask not in masks:
        raise ValueError(f"mask={config.mask!r}: {what} is for mask={' or '.join(masks)}; use grouped_query attention")
    if config.attention_dropout and not dropout:
        raise ValueError(
            f"attention_dropout={config.attention_dropout}: {what} never has all weights to drop some of them; use "
            "residual_dropout"
        )
    if config.sliding_window is not None:
        raise ValueError(
            f"sliding_window={config.sliding_window}: {what} decides by itself what a token sees; leave it out, or use "
            "grouped_query attention"
        )
    if config.position.asks_query or (config.position.adds_bias and not bias):
        ways = "rope, alibi, learned or no positions" if bias else "rope, learned or no positions"
        raise ValueError(
            f"position {type(config.position).__name__} adds to scores, which {what} doesn't have one by one: "
            f"use {ways}"
        )
