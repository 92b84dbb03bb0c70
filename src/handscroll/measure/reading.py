"""Reading a document under a cache policy: how long every chunk took, what the cache held, how well it was predicted.

A generator that yields after every chunk, and lets its caller ask questions of the cache at given lengths before it
goes on. Only the model's own reading is timed. Leaves to others what is asked (`recall.py`) and what is concluded
(`policies.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch

from handscroll.generation import read
from handscroll.generation.engine import CHUNK
from handscroll.kvcache import Policy
from handscroll.measure.likelihood import NextToken, PositionCurve
from handscroll.model import Cache, Transformer

Item = TypeVar("Item")

RECENT_CHUNKS = 8


class Chunk(NamedTuple):
    """Tokens start:end: wall-clock and process CPU seconds of reading them, and the cache's bytes after them."""

    start: int
    end: int
    seconds: float
    cpu_seconds: float
    device_bytes: int
    host_bytes: int


@dataclass(frozen=True)
class Reading:
    """What was measured so far. `likelihood` is None where it was not asked for."""

    chunks: tuple[Chunk, ...]
    likelihood: PositionCurve | None

    @property
    def tokens(self) -> int:
        return self.chunks[-1].end if self.chunks else 0

    @property
    def seconds(self) -> float:
        return sum(chunk.seconds for chunk in self.chunks)

    @property
    def cpu_seconds(self) -> float:
        return sum(chunk.cpu_seconds for chunk in self.chunks)

    def tokens_per_second(self, recent: int = RECENT_CHUNKS) -> float:
        """Wall-clock speed over the last `recent` chunks."""
        last = self.chunks[-recent:]
        return (last[-1].end - last[0].start) / max(1e-9, sum(chunk.seconds for chunk in last))


class ReadStep(NamedTuple):
    """A chunk was read. At a point the caller may fork `cache` (never change it) before going on."""

    tokens: int
    total: int
    tokens_per_second: float
    is_point: bool
    cache: Cache
    reading: Reading


def read_document(
    model: Transformer,
    ids: Sequence[int],
    policy: Policy,
    *,
    points: Sequence[int] = (),
    likelihood: bool = True,
    chunk: int = CHUNK,
    breaks: Sequence[int] = (),
) -> Iterator[ReadStep]:
    """Reads `ids` from the beginning into one new cache; the last step's `reading` is the result.

    Chunks end at multiples of `chunk`, and at each of `points` (numbers of tokens) besides; the end is a point too
    where it is among them. `breaks`: tokens that end a sentence. ValueError for an empty document, or a point that
    lies outside it.
    """
    total = len(ids)
    if not total:
        raise ValueError("the document is empty: there is nothing to read")
    for point in points:
        if not 1 <= point <= total:
            raise ValueError(
                f"read point {point} is not in the document, which has {total} tokens: choose 1 to {total}"
            )
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: at least 1 token is read at a time")
    cache = policy.start(model.config, model.position, 1)
    predicted = NextToken(model, total) if likelihood else None
    chunks: list[Chunk] = []
    borders = sorted({*range(0, total, chunk), *points, total})
    for start, end in pairwise(borders):
        piece = ids[start:end]
        # Where questions are asked, the text ends for a cache that goes by its end.
        more = min(point for point in (*points, total) if point >= end) - end
        watch = Watch(model.device)
        (progress,) = read(model, [piece], cache, end - start, only_last=predicted is None, breaks=breaks, more=more)
        seconds, cpu_seconds = watch.stop()
        held = cache.bytes()
        chunks.append(Chunk(start, end, seconds, cpu_seconds, held.device, held.host))
        if predicted is not None:
            predicted.add(piece, progress.hidden_BTE[0], start)
        reading = Reading(tuple(chunks), None if predicted is None else predicted.buckets.curve(end))
        yield ReadStep(end, total, reading.tokens_per_second(), end in points, cache, reading)


class Watch:
    """Wall-clock and process CPU time since it was made; a GPU is waited for at both ends."""

    def __init__(self, device: torch.device):
        self._device = device
        self._wait()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> tuple[float, float]:
        self._wait()
        return time.perf_counter() - self._wall, time.process_time() - self._cpu

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def timed(steps: Iterator[Item], device: torch.device) -> Iterator[tuple[float, Item]]:
    """Each item with the seconds that it took to come; what the caller does in between is not counted."""
    while True:
        watch = Watch(device)
        try:
            step = next(steps)
        except StopIteration:
            return
        yield watch.stop()[0], step
