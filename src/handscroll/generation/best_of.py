"""Best-of-n: one prompt is continued several times, each time from a seed of its own; the likeliest sample is taken.

The prompt is read once; samples are forks of its memory, which are decoded as a batch. Samples are compared by the mean
log-probability of their tokens under the model itself, so that a long one is not worse for its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from handscroll.generation.engine import CHUNK, Emitted, check_options, decode, read_to_end
from handscroll.generation.frames import Frame, alike
from handscroll.generation.options import Sampling
from handscroll.generation.sampling import Sampler
from handscroll.model import Cache, Transformer


def samples(
    model: Transformer,
    prompt: Sequence[int],
    cache: Cache,
    count: int,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    stop_ids: Sequence[int] = (),
    chunk: int = CHUNK,
    breaks: Sequence[int] = (),
    before: Sequence[int] = (),
    logprobs: int = 0,
    ended: set[int] | None = None,
    frame: Frame | None = None,
) -> Iterator[Emitted]:
    """Tokens of `count` samples, with log-probabilities; sample i, row i, is what `generate` draws from `seed` + i.

    The one row of the cache reads the prompt (mutates). `before`: what it has read already. `ended`: see `decode`.
    `frame`: how the row is read.
    """
    check_options(model, sampling, max_new_tokens, logprobs)
    last_BE = read_to_end(model, [prompt], cache, chunk, breaks, alike(frame, 1))
    seeds = [sampling.seed + row for row in range(count)]
    sampler = Sampler(sampling, count, read=[[*before, *prompt]] * count, seeds=seeds)
    yield from decode(
        model,
        last_BE.expand(count, -1),
        cache.select([0] * count),
        sampler,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        breaks=breaks,
        logprobs=logprobs,
        ended=ended,
        frames=alike(frame, count),
    )
