"""The next batch, made while the models compute on this one.

One thread makes what is begun, and whoever takes something waits for what was begun before: there are never two at
work on one source. A batch of some windows is a millisecond of numpy; it is begun before a backward pass, which holds
Python's lock only now and then. Knows nothing of batches.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Ahead(Generic[Value]):
    """Values by their places (step, micro batch)."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._begun: tuple[tuple[int, int], Future[Value]] | None = None

    def begin(self, make: Callable[[int, int], Value], step: int, micro: int) -> None:
        """Lets the thread make this value (mutates); what goes wrong there is raised where the value is taken."""
        assert self._begun is None, "one at a time"
        self._begun = ((step, micro), self._thread.submit(make, step, micro))

    def take(self, make: Callable[[int, int], Value], step: int, micro: int) -> Value:
        """The value that was begun; another one is made now (mutates)."""
        begun, self._begun = self._begun, None
        if begun is not None:
            wait([begun[1]])
            if begun[0] == (step, micro):
                return begun[1].result()
        return make(step, micro)

    def close(self) -> None:
        """Ends the thread, after what it is at (mutates). Nothing more can be begun."""
        self._begun = None
        self._thread.shutdown(cancel_futures=True)
