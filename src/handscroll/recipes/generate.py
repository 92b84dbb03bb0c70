"""From a prompt as text, or a conversation, to the model's continuation as text, token by token.

Knows what stands around a prompt (the tokenizer's beginning-of-text token, the chat template) and what ends a reply.
Leaves reading and decoding to `generation/`, remembering to `kvcache/`, options to `decoding.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple, Unpack

from handscroll.generation import Emitted, Logprobs, beam_search, read, samples
from handscroll.generation import generate as generate_ids
from handscroll.generation.engine import CHUNK, check_options
from handscroll.generation.frames import Frame, alike
from handscroll.kvcache import Policy, breaks_for, make_policy, usual_policy
from handscroll.model import Cache, Transformer
from handscroll.recipes.blanks import reading
from handscroll.recipes.decoding import Decoding, DecodingOptions, make_decoding
from handscroll.recipes.memory_needs import require_memory
from handscroll.text import StreamDecoder, Tokenizer, chat_tokens
from handscroll.text.stops import StopStrings

Prompt = str | Sequence[Mapping[str, Any]]


class Token(NamedTuple):
    """A generated token and the text that became complete with it: often a word, sometimes nothing.

    The texts of all tokens side by side are the continuation. A token that ends it, such as an end of turn, has none.
    `ends` says what the continuation ends by: "stop token", "stop string" or "max_new_tokens"; empty where it goes on.
    """

    id: int
    text: str
    logprobs: Logprobs | None = None
    ends: str = ""


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    context: str = "",
    cache: str | Mapping[str, Any] | Policy | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    stop_ids: Sequence[int] | None = None,
    on_read: Callable[[int, int], None] | None = None,
    **options: Unpack[DecodingOptions],
) -> Iterator[Token]:
    """Continues a text, or answers a conversation ([{"role": "user", "content": ...}]); checks at once.

    `context` is a text of any length that is read before the prompt, outside of the conversation if it is one.
    `cache` is a policy, by name, as {"policy": name, option: value}, or itself; None: block_memory, or full for a model
    that reads what it continues in both directions, all of it at once. Temperature 0 is greedy. `stop_ids`
    end the continuation (default: the tokenizer's); further options stand in `decoding.py`. `on_read` is told of the
    prompt's tokens that were read, and of how many. Beam search and best-of yield once all continuations are known.
    Raises ValueError for unknown or impossible options, an empty prompt, and a text whose memory can't fit.
    """
    policy = make_policy(usual_policy(model.config) if cache is None else cache)
    decoding = make_decoding(
        max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, stop_ids=stop_ids, **options
    )
    check_options(model, decoding.sampling, decoding.max_new_tokens, decoding.logprobs)
    ids, frame = reading(model, tokenizer, prompt_ids(tokenizer, prompt, context))
    require_memory(model, policy, len(ids) + decoding.max_new_tokens, decoding.rows)
    memory = policy.start(model.config, model.position, 1)
    breaks = breaks_for(policy, tokenizer)

    def tokens() -> Iterator[Token]:
        # Up to a border of the chunks that reading has anyway, so that looking on changes nothing.
        head = (len(ids) - 1) // CHUNK * CHUNK if frame is None else 0
        if head:
            for progress in read(model, [ids[:head]], memory, only_last=True, breaks=breaks):
                if on_read is not None:
                    on_read(progress.tokens, len(ids))
        continued = continue_text(
            model, tokenizer, memory, ids[head:], decoding, breaks, before=ids[:head], frame=frame
        )
        for number, token in enumerate(continued):
            if number == 0 and on_read is not None:
                on_read(len(ids), len(ids))
            yield token

    return tokens()


def continue_text(
    model: Transformer,
    tokenizer: Tokenizer,
    memory: Cache,
    ids: Sequence[int],
    decoding: Decoding,
    breaks: Sequence[int] = (),
    *,
    before: Sequence[int] = (),
    frame: Frame | None = None,
) -> Iterator[Token]:
    """Reads the last tokens of a text into a memory of one row (mutates), `before` being what it holds; goes on.

    `frame`: how it is read (None: as the engine does by itself)."""
    stop_ids = decoding.stop_ids_of(tokenizer)
    options: dict[str, Any] = {
        "max_new_tokens": decoding.max_new_tokens,
        "stop_ids": stop_ids,
        "sampling": decoding.sampling,
        "breaks": breaks,
    }
    if decoding.search is not None:
        best = beam_search(model, ids, memory, decoding.search, before=before, frame=frame, **options)[0].tokens
        emitted: Iterable[Emitted] = (Emitted(0, token, n == len(best)) for n, token in enumerate(best, 1))
    elif decoding.best_of > 1:
        yield from _best_sample(model, tokenizer, memory, ids, decoding, {"before": before, "frame": frame, **options})
        return
    else:
        options |= {"logprobs": decoding.logprobs, "frames": alike(frame, 1)}
        emitted = generate_ids(model, [ids], memory, before=[before], **options)
    yield from as_text(tokenizer, emitted, stop_ids, decoding.stop)


def _best_sample(
    model: Transformer,
    tokenizer: Tokenizer,
    memory: Cache,
    ids: Sequence[int],
    decoding: Decoding,
    options: Mapping[str, Any],
) -> list[Token]:
    """The sample whose tokens have the largest mean log-probability, each counted up to where its text ends."""
    texts = [RowText(tokenizer, options["stop_ids"], decoding.stop) for _ in range(decoding.best_of)]
    told: list[list[Token]] = [[] for _ in texts]
    ended: set[int] = set()
    count = decoding.logprobs or 0
    for each in samples(model, ids, memory, decoding.best_of, logprobs=count, ended=ended, **options):
        token = texts[each.row].feed(each)
        told[each.row].append(token)
        if token.ends:
            ended.add(each.row)

    def mean(sample: Sequence[Token]) -> float:
        return fmean(token.logprobs.chosen for token in sample if token.logprobs is not None)

    best = max(told, key=mean)
    return best if decoding.logprobs is not None else [token._replace(logprobs=None) for token in best]


class RowText:
    """One row's tokens as text: whole characters only, and no part of a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int], stop: Sequence[str] = ()):
        self._stream, self._stops = StreamDecoder(tokenizer), StopStrings(stop)
        self._stop_ids = frozenset(stop_ids)

    def feed(self, each: Emitted) -> Token:
        """The token with the text that can be shown with it (mutates). After one that `ends` the text none may come."""
        is_stopped = each.token in self._stop_ids
        text = self._stops.feed("" if is_stopped else self._stream.feed(each.token))
        if each.is_last:
            text += self._stops.feed(self._stream.flush()) + self._stops.flush()
        ends = ""
        if self._stops.found is not None:
            ends = "stop string"
        elif each.is_last:
            ends = "stop token" if is_stopped else "max_new_tokens"
        return Token(each.token, text, each.logprobs, ends)


def as_text(
    tokenizer: Tokenizer, emitted: Iterable[Emitted], stop_ids: Sequence[int], stop: Sequence[str] = ()
) -> Iterator[Token]:
    """One row's tokens with the text that becomes complete with each, up to its end or the first stop string."""
    row = RowText(tokenizer, stop_ids, stop)
    for each in emitted:
        token = row.feed(each)
        yield token
        if token.ends:
            return


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt, context: str = "") -> list[int]:
    """The tokens that the model reads: what the tokenizer puts before every text, the context and, on a new line, the
    prompt; of a conversation up to where the assistant speaks. Raises ValueError where there is nothing to continue."""
    if isinstance(prompt, str):
        text = f"{_line(context)}{prompt}" if prompt else context
        if not text:
            raise ValueError("the prompt is empty: give at least one character to continue")
        return tokenizer.opening_ids + tokenizer.encode(text)
    read = context_ids(tokenizer, context) if context else []
    return read + chat_tokens(tokenizer, prompt, add_generation_prompt=True).ids


def context_ids(tokenizer: Tokenizer, context: str) -> list[int]:
    """The tokens of a text that is read before a conversation: what stands before every text, and whole lines."""
    return tokenizer.opening_ids + tokenizer.encode(_line(context))


def _line(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
