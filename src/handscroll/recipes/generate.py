"""From a prompt as text, or a conversation, to the model's continuation as text, token by token.

Knows what stands around a prompt (the tokenizer's beginning-of-text token, the chat template), what ends a reply, and
what the memory of a text needs before it is read. Leaves reading and decoding to `generation/`, remembering to
`kvcache/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from handscroll.generation import Emitted, Sampling, read
from handscroll.generation import generate as generate_ids
from handscroll.generation.engine import CHUNK
from handscroll.kvcache import Policy, breaks_for, disk_of, make_policy
from handscroll.kvcache.plan import Text
from handscroll.model import Transformer
from handscroll.model.footprint import require, require_disk
from handscroll.text import StreamDecoder, Tokenizer, chat_tokens

Prompt = str | Sequence[Mapping[str, Any]]


class Token(NamedTuple):
    """A generated token and the text that became complete with it: often a word, sometimes nothing.

    The texts of all tokens side by side are the continuation. A token that ends it, such as an end of turn, has none.
    """

    id: int
    text: str


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: Prompt,
    *,
    context: str = "",
    cache: str | Mapping[str, Any] | Policy = "block_memory",
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    stop_ids: Sequence[int] | None = None,
    on_read: Callable[[int, int], None] | None = None,
) -> Iterator[Token]:
    """Continues a text, or answers a conversation ([{"role": "user", "content": ...}]); checks at once.

    `context` is a text of any length that is read before the prompt, outside of the conversation if it is one.
    `cache` is a policy, by name, as {"policy": name, option: value}, or itself. Temperature 0 is greedy. `stop_ids`
    end the continuation (default: the tokenizer's). `on_read` is told of the prompt's tokens that were read, and of how
    many. Raises ValueError for unknown or impossible options, an empty prompt, and a text whose memory can't fit.
    """
    policy = make_policy(cache)
    sampling = Sampling(temperature, seed)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: at least 1")
    ids = prompt_ids(tokenizer, prompt, context)
    require_memory(model, policy, len(ids) + max_new_tokens)
    stops = tokenizer.stop_ids if stop_ids is None else tuple(stop_ids)
    memory = policy.start(model.config, model.position, 1)
    breaks = breaks_for(policy, tokenizer)

    def tokens() -> Iterator[Token]:
        # Up to a border of the chunks that reading has anyway, so that looking on changes nothing.
        head = (len(ids) - 1) // CHUNK * CHUNK
        if head:
            for progress in read(model, [ids[:head]], memory, only_last=True, breaks=breaks):
                if on_read is not None:
                    on_read(progress.tokens, len(ids))
        emitted = generate_ids(
            model,
            [ids[head:]],
            memory,
            max_new_tokens=max_new_tokens,
            stop_ids=stops,
            sampling=sampling,
            breaks=breaks,
        )
        for number, token in enumerate(as_text(tokenizer, emitted)):
            if number == 0 and on_read is not None:
                on_read(len(ids), len(ids))
            yield token

    return tokens()


def as_text(tokenizer: Tokenizer, emitted: Iterable[Emitted]) -> Iterator[Token]:
    """One row's tokens with the text that becomes complete with each."""
    stream = StreamDecoder(tokenizer)
    for each in emitted:
        yield Token(each.token, stream.feed(each.token) + (stream.flush() if each.is_last else ""))


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


def require_memory(model: Transformer, policy: Policy, tokens: int) -> None:
    """Raises DoesNotFit unless there is room for what the policy keeps of so many tokens, where it keeps it."""
    device, what = model.device, f"remembering {tokens:,} tokens"
    is_apart = device.type != "cpu"
    text = Text(tokens, dtype=model.embedding.weight.dtype, chunk=CHUNK, apart=is_apart)
    near, archive = policy.plan(model.config, text)
    disk = disk_of(policy)
    if disk is not None:
        require_disk(archive, what, disk)
        archive = 0
    if is_apart:
        require(near, what, device)
        near = 0
    require(near + archive, what)
