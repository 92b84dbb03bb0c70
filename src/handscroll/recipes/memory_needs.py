"""A refusal, before a text is read, of what its cache would have no room for.

Knows what several rows share. Leaves to others what a policy will hold (`Policy.plan`) and what is free
(`model/footprint.py`).
"""

from __future__ import annotations

from handscroll.generation.engine import CHUNK
from handscroll.kvcache import Policy, disk_of
from handscroll.kvcache.plan import Text
from handscroll.model import Transformer
from handscroll.model.footprint import require, require_disk
from handscroll.model.memory import Bytes


def require_memory(model: Transformer, policy: Policy, tokens: int, rows: int = 1, held: int = 0) -> None:
    """Raises DoesNotFit unless there is room for what the policy keeps of so many tokens, where it keeps it.

    `rows` texts of so many tokens begin alike and share their archive. `held`: of how many tokens one row is
    remembered already.
    """
    device, what = model.device, f"remembering {tokens:,} tokens" + (f" in {rows} rows" if rows > 1 else "")
    whole, already = _planned(model, policy, tokens), _planned(model, policy, held)
    near, archive = rows * whole.device - already.device, whole.host - already.host
    disk = disk_of(policy)
    if disk is not None:
        require_disk(archive, what, disk)
        archive = 0
    if device.type != "cpu":
        require(near, what, device)
        near = 0
    require(near + archive, what)


def _planned(model: Transformer, policy: Policy, tokens: int) -> Bytes:
    if not tokens:
        return Bytes(0, 0)
    text = Text(tokens, dtype=model.embedding.weight.dtype, chunk=CHUNK, apart=model.device.type != "cpu")
    return policy.plan(model.config, text)
