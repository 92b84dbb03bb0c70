"""The attention slot: project, let the memory attend, project back. What is attended to is the memory's business.

A variant is a module `forward(x_BTE, memory, layout) -> Attended` (with `out` as (B, T, E)).
To add one: write `attention/NAME.py` and one line below; name it in `ModelConfig.attention`.
"""

from handscroll.model.attention.grouped_query import GroupedQueryAttention

ATTENTIONS = {"grouped_query": GroupedQueryAttention}

__all__ = ["ATTENTIONS", "GroupedQueryAttention"]
