"""Reading a text into a cache, and continuing it token by token, for any number of rows of any length.

Knows models and caches by their contracts only; text, chat templates and stop strings belong to its callers.

Letters: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from handscroll.generation.frames import Frame, framed, usual_frames
from handscroll.generation.options import Sampling
from handscroll.generation.sampling import Logprobs, Sampler, logprobs_of
from handscroll.model import Cache, Layout, ModelConfig, Transformer
from handscroll.model.heads import head_name
from handscroll.model.slots import VocabularyOptions

CHUNK = 4096


class Read(NamedTuple):
    """Progress of reading: tokens read of each row so far, and the hidden states of the chunk just read.

    These are (B, T, E), or (B, 1, E) where only the last ones were asked for.
    """

    tokens: int
    total: int
    hidden_BTE: Tensor
    layout: Layout


class Emitted(NamedTuple):
    """One generated token of one row; `is_last` where the row ends with it (a stop token, or the limit)."""

    row: int
    token: int
    is_last: bool
    logprobs: Logprobs | None = None


def read(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    cache: Cache,
    chunk: int = CHUNK,
    *,
    only_last: bool = False,
    breaks: Sequence[int] = (),
    more: int = 0,
    frames: Sequence[Frame] | None = None,
) -> Iterator[Read]:
    """Feeds each row's tokens to its row of the cache (mutates), `chunk` at a time; rows may differ in length.

    `only_last`: of each chunk only the hidden states of each row's last token in it, (B, 1, E), are computed.
    `breaks`: tokens that end a sentence, for a cache whose blocks end there.
    `more`: tokens of the same texts that a later call brings, for a cache that goes by a text's length or end.
    `frames`, one a row: a prefix that is read in both directions, and hence in one chunk; None: each token sees what is
    before it.
    """
    _check(prompts, cache, model)
    if chunk < 1:
        raise ValueError(f"chunk={chunk}: at least 1 token is read at a time")
    chunk = max(chunk, *(frame.prefix for frame in frames or [Frame(0)]))
    total = max(len(prompt) for prompt in prompts)
    totals = [held + len(prompt) + more for held, prompt in zip(cache.lengths, prompts, strict=True)]
    for first in range(0, total, chunk):
        lengths = [min(max(len(prompt) - first, 0), chunk) for prompt in prompts]
        tokens_BT = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            tokens_BT[row, : lengths[row]] = torch.as_tensor(prompt[first : first + chunk])
        layout = Layout.rows(
            lengths, cache.lengths, totals=totals, device=model.device, ends_BT=_ends(tokens_BT, breaks)
        )
        layout = layout if frames is None else framed(layout, frames)
        with torch.inference_mode():
            wanted_BQ = _last_places(lengths, model.device)[:, None] if only_last else None
            hidden = model.hidden(tokens_BT.to(model.device), layout, cache, wanted_BQ)
        yield Read(min(first + chunk, total), total, hidden.last_BTE, layout)


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    cache: Cache,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    sampling: Sampling = Sampling(),
    chunk: int = CHUNK,
    breaks: Sequence[int] = (),
    before: Sequence[Sequence[int]] | None = None,
    logprobs: int | None = None,
    frames: Sequence[Frame] | None = None,
) -> Iterator[Emitted]:
    """Continues every row of the cache after its prompt (mutates); rows end at a stop token or after `max_new_tokens`.

    Rows that have ended leave the batch once they are half of it. `before`: what each row of the cache has read
    already, for penalties. `logprobs`: of how many of the likeliest tokens log-probabilities are told besides the
    chosen one's; None: of none. `frames`: how each row is read (None: as `read_to_end` does).
    """
    check_options(model, sampling, max_new_tokens, logprobs)
    last_BE = read_to_end(model, prompts, cache, chunk, breaks, frames)
    whole = [[*early, *late] for early, late in zip(before or [[]] * len(prompts), prompts, strict=True)]
    sampler = Sampler(sampling, len(prompts), read=whole)
    yield from decode(
        model,
        last_BE,
        cache,
        sampler,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        breaks=breaks,
        logprobs=logprobs,
        frames=frames,
    )


def read_to_end(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    cache: Cache,
    chunk: int = CHUNK,
    breaks: Sequence[int] = (),
    frames: Sequence[Frame] | None = None,
) -> Tensor:
    """Reads the prompts (mutates the cache); the hidden states (B, E) of each row's last token.

    Without `frames` a model of mask=prefix takes whole prompts as prefixes.
    """
    frames = usual_frames(model, prompts, cache) if frames is None else frames
    last_BE: Tensor | None = None
    for progress in read(model, prompts, cache, chunk, only_last=True, breaks=breaks, frames=frames):
        last_BE = _last_states(progress, last_BE)
    assert last_BE is not None
    return last_BE


def decode(
    model: Transformer,
    last_BE: Tensor,
    cache: Cache,
    sampler: Sampler,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    breaks: Sequence[int] = (),
    logprobs: int | None = None,
    ended: set[int] | None = None,
    frames: Sequence[Frame] | None = None,
) -> Iterator[Emitted]:
    """`generate` after reading. `ended`: rows that have; a caller who has seen enough of one adds it (mutates)."""
    rows = len(cache.lengths)
    alive, ended = list(range(rows)), set() if ended is None else ended
    for step in range(max_new_tokens):
        with torch.inference_mode():
            logits_BV = model.logits(last_BE)
            picked = sampler.pick(logits_BV, alive)
            told = [None] * len(picked) if logprobs is None else logprobs_of(logits_BV, picked, logprobs)
        for row, token, each in zip(alive, picked, told, strict=True):
            if row not in ended:
                is_last = token in stop_ids or step == max_new_tokens - 1
                if is_last:
                    ended.add(row)
                yield Emitted(row, token, is_last, each)
        if len(ended) == rows:
            return
        kept = [place for place, row in enumerate(alive) if row not in ended]
        if 2 * len(kept) <= len(alive):
            cache, alive, picked = cache.select(kept), [alive[p] for p in kept], [picked[p] for p in kept]
        last_BE = step_on(model, picked, cache, breaks, frames and [frames[row] for row in alive])


def step_on(
    model: Transformer,
    tokens: Sequence[int],
    cache: Cache,
    breaks: Sequence[int] = (),
    frames: Sequence[Frame] | None = None,
) -> Tensor:
    """One more token for each row of the cache (mutates); the hidden states (B, E) behind them."""
    with torch.inference_mode():
        tokens_B1 = torch.tensor(tokens)[:, None]
        layout = Layout.rows([1] * len(tokens), cache.lengths, device=model.device, ends_BT=_ends(tokens_B1, breaks))
        layout = layout if frames is None else framed(layout, frames)
        return model.hidden(tokens_B1.to(model.device), layout, cache).last_BTE[:, -1]


def check_options(model: Transformer, sampling: Sampling, max_new_tokens: int, logprobs: int | None = None) -> None:
    """ValueError for what is impossible, or impossible with this model."""
    check_continues(model.config)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: at least 1")
    vocab_size = model.config.vocab_size
    sampling.check_tokens(vocab_size)
    if logprobs is not None and not 0 <= logprobs <= vocab_size:
        raise ValueError(f"logprobs={logprobs}: from 0 (the chosen token alone) to the vocabulary's {vocab_size}")


def check_continues(config: ModelConfig) -> None:
    """ValueError for a model that can't continue a text."""
    if config.mask == "bidirectional" or not isinstance(config.head, VocabularyOptions):
        raise ValueError(
            f"this model continues no text: its mask is {config.mask} and its head {head_name(config.head)}; use "
            "handscroll embed for a text's vector, handscroll fill for what is hidden in it, or a causal model with "
            "head lm"
        )


def _ends(tokens_BT: Tensor, breaks: Sequence[int]) -> Tensor | None:
    """(B, T): which tokens are breaks; None where there are none."""
    return torch.isin(tokens_BT, torch.tensor(breaks)) if breaks else None


def _last_places(lengths: Sequence[int], device: torch.device) -> Tensor:
    """(B,): each row's last token; the first place where a row has none."""
    return torch.tensor([max(length, 1) - 1 for length in lengths], device=device)


def _last_states(progress: Read, earlier_BE: Tensor | None) -> Tensor:
    """Each row's hidden state at its last real token, which may stand in an earlier chunk."""
    lengths = progress.layout.lengths
    assert lengths is not None
    last_BE = progress.hidden_BTE[:, 0]
    if earlier_BE is None or min(lengths) > 0:
        return last_BE
    is_here_B1 = torch.tensor(lengths, device=last_BE.device)[:, None] > 0
    return torch.where(is_here_B1, last_BE, earlier_BE)


def _check(prompts: Sequence[Sequence[int]], cache: Cache, model: Transformer) -> None:
    check_continues(model.config)
    if len(prompts) != len(cache.lengths):
        raise ValueError(f"{len(prompts)} prompts for a cache of {len(cache.lengths)} rows: one prompt per row")
    for row, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {row} is empty: a model continues at least one token")
        low, high = min(prompt), max(prompt)
        if low < 0 or high >= model.config.vocab_size:
            raise ValueError(
                f"prompt {row} has token {low if low < 0 else high}, but the model knows 0 to "
                f"{model.config.vocab_size - 1}: is this the model's own tokenizer?"
            )
