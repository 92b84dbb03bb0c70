"""`offloaded`: any policy, whose older keys and values wait in the host's memory or in a file.

Adds to a policy a store: what is remembered stays that policy's decision, and so does every answer. A layer's archive
is read a piece at a time, so that a device holds no more of it than one piece. A file has no name and ends with the
process.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from handscroll.kvcache.full import FULL
from handscroll.kvcache.layered import LayeredCache
from handscroll.kvcache.places import Place
from handscroll.kvcache.plan import Text
from handscroll.kvcache.stores import CONTIGUOUS, Stores
from handscroll.model.config import ModelConfig
from handscroll.model.memory import Bytes
from handscroll.model.position import Position

if TYPE_CHECKING:
    from handscroll.kvcache import Policy

AWAY = ("host", "file")


@dataclass(frozen=True)
class Offloaded:
    """`to`: host or file; `folder`: of the file; `recent`: tokens that stay on the device, the latest ones."""

    inner: Policy = FULL
    to: str = "host"
    folder: str | None = None
    recent: int = 128

    def __post_init__(self) -> None:
        if self.to not in AWAY:
            raise ValueError(f"to={self.to!r}: offloaded moves keys and values to {' or '.join(AWAY)}")
        if self.folder is not None and self.to != "file":
            raise ValueError(f"folder={self.folder!r} is where a file is made: it needs to=file")
        if self.recent < 0:
            raise ValueError(f"recent={self.recent}: a number of tokens, 0 or more")
        Place(self.to, self.folder)

    @property
    def chunk_invariant(self) -> bool:
        return self.inner.chunk_invariant

    def start(self, config: ModelConfig, position: Position, rows: int, stores: Stores = CONTIGUOUS) -> LayeredCache:
        return self.inner.start(config, position, rows, self._stores(stores))

    @property
    def disk(self) -> Path | None:
        """The folder of a file that keys and values go to; None where they stay in memory."""
        return Path(self.folder or tempfile.gettempdir()) if self.to == "file" else None

    def plan(self, config: ModelConfig, text: Text, stores: Stores = CONTIGUOUS) -> Bytes:
        """The most that a cache holds of a text."""
        return self.inner.plan(config, text, self._stores(stores))

    def _stores(self, stores: Stores) -> Stores:
        return replace(stores, place=Place(self.to, self.folder), recent=self.recent)
