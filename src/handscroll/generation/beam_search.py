"""Beam search: the likeliest continuations so far are followed, and the best that ended is the answer.

The scores, and when the search ends, are those of `transformers`: a sum of log-probabilities divided by the length to
the power of `length_penalty` (arXiv 1609.08144, section 7, without its constant). Each beam is a row of the cache;
`cache.select` reorders them, so that any way of remembering will do.

Knows nothing of text. Letters: B beams, C candidates, E width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from handscroll.generation.engine import CHUNK, check_options, read_to_end, step_on
from handscroll.generation.frames import Frame, alike
from handscroll.generation.options import Sampling
from handscroll.generation.sampling import penalized
from handscroll.generation.seen import Seen
from handscroll.model import Cache, Transformer


@dataclass(frozen=True)
class BeamSearch:
    """`beams` continuations are followed. A `length_penalty` above 0 favours long ones, below 0 short ones.

    `early_stopping`: True ends the search once so many have ended as there are beams; False once the best that goes on
    isn't better than the worst of these as it stands; "never" once it couldn't become better either, however long.
    """

    beams: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ValueError(f"beams={self.beams}: at least 1")
        if not abs(self.length_penalty) < float("inf"):
            raise ValueError(f"length_penalty={self.length_penalty}: a finite number; 0 ignores lengths")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f"early_stopping={self.early_stopping!r}: True, False or 'never'")


class Hypothesis(NamedTuple):
    """A continuation that has ended, and its score; its stop token, if it has one, is the last."""

    tokens: list[int]
    score: float


def beam_search(
    model: Transformer,
    prompt: Sequence[int],
    cache: Cache,
    options: BeamSearch = BeamSearch(),
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    sampling: Sampling = Sampling(),
    chunk: int = CHUNK,
    breaks: Sequence[int] = (),
    before: Sequence[int] = (),
    frame: Frame | None = None,
) -> list[Hypothesis]:
    """Continuations of the one row of the cache (mutates) after the prompt, at most as many as beams, the best first.

    Bias and penalties of `sampling` change the log-probabilities; nothing is drawn. `before` is what was read already.
    `frame`: how the row is read.
    """
    check_options(model, sampling, max_new_tokens)
    last_BE = read_to_end(model, [prompt], cache, chunk, breaks, alike(frame, 1))
    vocab_size, stops = model.config.vocab_size, set(stop_ids)
    seen = Seen(sampling.penalties, [[*before, *prompt]], vocab_size, last_BE.device)
    beams: list[list[int]] = [[]]
    sums_B = torch.zeros(1, device=last_BE.device)
    finished: list[Hypothesis] = []
    for length in range(1, max_new_tokens + 1):
        with torch.inference_mode():
            logprobs_BV = model.logits(last_BE).float().log_softmax(dim=-1)
            sums_BV = penalized(logprobs_BV, sampling, seen, range(len(beams))) + sums_B[:, None]
            # Enough that as many go on as there are beams, even if all stop tokens of all beams are among them.
            wanted = max(2, 1 + len(stops)) * options.beams
            sums_C, places_C = sums_BV.flatten().topk(min(wanted, sums_BV.numel()))
        parents, tokens = (places_C // vocab_size).tolist(), (places_C % vocab_size).tolist()
        ends = [token in stops or length == max_new_tokens for token in tokens]
        if not (options.early_stopping is True and len(finished) == options.beams):
            scores = (sums_C / length**options.length_penalty).tolist()
            finished += [
                Hypothesis([*beams[parents[place]], tokens[place]], scores[place])
                for place in range(min(options.beams, len(tokens)))
                if ends[place]
            ]
            finished = sorted(finished, key=lambda each: -each.score)[: options.beams]
        going = [place for place, is_end in enumerate(ends) if not is_end][: options.beams]
        if not going or _is_over(options, finished, sums_C[going[0]], length, max_new_tokens):
            break
        beams = [[*beams[parents[place]], tokens[place]] for place in going]
        order = [parents[place] for place in going]
        if order != list(range(len(cache.lengths))):
            cache, seen = cache.select(order), seen.select(order)
        sums_B = sums_C[going]
        said = [tokens[place] for place in going]
        seen.add(range(len(said)), said)
        last_BE = step_on(model, said, cache, breaks, alike(frame, len(said)))
    return finished


def _is_over(
    options: BeamSearch, finished: Sequence[Hypothesis], best: Tensor, length: int, max_new_tokens: int
) -> bool:
    """Whether nothing better can come; `best` is the largest sum of those that go on."""
    if len(finished) < options.beams:
        return False
    if options.early_stopping is True:
        return True
    if options.early_stopping == "never" and options.length_penalty > 0:
        length = max_new_tokens
    return float(best / length**options.length_penalty) <= finished[-1].score
