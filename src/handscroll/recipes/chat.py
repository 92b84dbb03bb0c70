"""A conversation whose memory goes on from turn to turn: each turn reads only what is new, a document is read once.

Knows what the memory holds, token by token (`ids`), and what the chat template makes of the conversation. As long as
the first begins the second, only the rest is read; where it doesn't, as some templates rewrite earlier turns, that is
said, and what differs is read again. Leaves commands to `chat_commands.py`, files to `chat_file.py`, the terminal to
`cli/chat.py`.

What happens is told as events. Whoever closes the iterator between two of them stops the work; what was said until then
stays part of the conversation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from handscroll.generation import read
from handscroll.generation.engine import CHUNK, check_options
from handscroll.kvcache import Policy, breaks_for, make_policy
from handscroll.kvcache.layered import LayeredCache
from handscroll.model import Transformer
from handscroll.recipes.decoding import Decoding
from handscroll.recipes.events import Advance, Said
from handscroll.recipes.generate import Token, context_ids, continue_text
from handscroll.recipes.memory_needs import require_memory
from handscroll.text import Tokenizer, chat_tokens


class Notice(NamedTuple):
    """What the reader should know and hasn't asked for."""

    text: str


class Answered(NamedTuple):
    """An answer is complete: how many tokens it took, and the seconds of writing and of reading what was new before."""

    tokens: int
    seconds: float
    read: int
    seconds_reading: float


class Left(NamedTuple):
    """The reader wants to leave."""


DECODING = Decoding(max_new_tokens=512)

ChatEvent = Advance | Said | Notice | Token | Answered | Left


class Chat:
    """One conversation. `maker` names the model for people.

    ValueError where the model has no chat template, or an option is impossible.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        cache: str | Mapping[str, Any] | Policy = "block_memory",
        decoding: Decoding = DECODING,
        *,
        system: str = "",
        maker: str = "",
    ):
        if tokenizer.chat_template is None:
            raise ValueError(
                "this model has no chat template, so that it knows no turns: continue texts with handscroll generate, "
                "or save a template as chat_template.jinja in the model's folder"
            )
        if decoding.search is not None or decoding.best_of > 1:
            raise ValueError("a chat answers as it speaks: leave out beams and best_of")
        check_options(model, decoding.sampling, decoding.max_new_tokens, decoding.logprobs)
        self.model, self.tokenizer, self.decoding, self.maker = model, tokenizer, decoding, maker
        self.policy = make_policy(cache)
        self.messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
        # For each message of the assistant, the tokens that it said: its text may be cut into others.
        self.said: list[list[int]] = []
        self.document: list[int] = []
        self.document_memory: LayeredCache | None = None
        self.memory: LayeredCache = self._start()
        self.ids: list[int] = []
        self.last: Answered | None = None

    def answer(self, text: str) -> Iterator[ChatEvent]:
        """Answers a message. One that nothing was said to is not part of the conversation."""
        if not text.strip():
            raise ValueError("the message is empty: say something")
        self.messages.append({"role": "user", "content": text})
        told: list[Token] = []
        try:
            whole = self._whole()
            most = len(whole) + self.decoding.max_new_tokens
            require_memory(self.model, self.policy, most, held=len(self.ids))
        except ValueError:
            self.messages.pop()
            raise
        try:
            began, new = time.perf_counter(), len(whole) - len(self.ids)
            yield from self._catch_up(whole)
            for token in self._continued(whole):
                # A token is read once the next one is asked for.
                if told:
                    self.ids.append(told[-1].id)
                else:
                    self.ids, first = whole, time.perf_counter()
                told.append(token)
                yield token
        except GeneratorExit:
            raise
        except BaseException:
            # Somewhere within a layer: what the memory holds is not known any more.
            self.forget()
            raise
        finally:
            if told:
                self.last = Answered(len(told), time.perf_counter() - first, new, first - began)
            self._keep(told)
        assert self.last is not None
        if told[-1].ends == "max_new_tokens":
            yield Notice(f"cut off after {len(told)} tokens: --max-new-tokens allows more")
        yield self.last

    def read_document(self, text: str) -> Iterator[ChatEvent]:
        """Reads what the conversation is about; it stands before all that was said, and takes the last one's place."""
        if not text.strip():
            raise ValueError("the document is empty: give one that holds words")
        yield from self._read_document(context_ids(self.tokenizer, text), self.policy)

    def remember_by(self, cache: Mapping[str, Any]) -> Iterator[ChatEvent]:
        """Another way of remembering: the document is read again now, what was said with the next message."""
        policy = make_policy(cache)
        policy.start(self.model.config, self.model.position, 0)  # options that don't fit the model
        if self.document:
            yield from self._read_document(self.document, policy)
        else:
            self.policy = policy
            self.forget()

    def reset(self) -> None:
        """Forgets what was said, but neither the system message nor the document."""
        self.messages = [message for message in self.messages if message["role"] == "system"]
        self.said = []
        self._rewind(len(self.document))

    def forget(self) -> None:
        """Empties the memory, up to the document if that is remembered apart; the next message reads the rest again."""
        self.memory = self._start() if self.document_memory is None else self.document_memory.select([0])
        self.ids = [] if self.document_memory is None else list(self.document)

    def _start(self) -> LayeredCache:
        return self.policy.start(self.model.config, self.model.position, 1)

    def _read_document(self, ids: list[int], policy: Policy) -> Iterator[ChatEvent]:
        # A fork of it answers, so that it is there as it was for the next conversation.
        require_memory(self.model, policy, len(ids) + self.decoding.max_new_tokens, rows=2)
        memory = policy.start(self.model.config, self.model.position, 1)
        yield from self._read(memory, ids, policy)
        self.policy, self.document, self.document_memory = policy, ids, memory
        self.forget()

    def _read(self, memory: LayeredCache, ids: Sequence[int], policy: Policy) -> Iterator[Advance]:
        began = time.perf_counter()
        breaks = breaks_for(policy, self.tokenizer)
        for progress in read(self.model, [ids], memory, only_last=True, breaks=breaks):
            speed = progress.tokens / (time.perf_counter() - began)
            yield Advance("reading", progress.tokens, len(ids), "tokens", speed)

    def _whole(self) -> list[int]:
        """The tokens of document and conversation, up to where the assistant speaks."""
        if not self.messages:
            return list(self.document)
        tokens = chat_tokens(self.tokenizer, self.messages, add_generation_prompt=True)
        return self.document + as_said(self.tokenizer, tokens.ids, tokens.mask, self.said)

    def _catch_up(self, whole: list[int]) -> Iterator[ChatEvent]:
        """Lets the memory hold `whole` but for its last chunk."""
        held = len(self.ids)
        if whole[:held] != self.ids or held == len(whole):
            pairs = zip(self.ids, whole[:-1], strict=False)
            common = next((n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), min(held, len(whole) - 1))
            self._rewind(common)
            yield Notice(
                f"{min(held, len(whole)) - len(self.ids):,} tokens are read again: the chat template now writes what "
                "was said otherwise than it was read"
            )
        rest = whole[len(self.ids) :]
        if head := (len(rest) - 1) // CHUNK * CHUNK:
            start = len(self.ids)
            for event in self._read(self.memory, rest[:head], self.policy):
                self.ids = list(whole[: start + int(event.done)])
                yield event._replace(total=len(rest))

    def _continued(self, whole: Sequence[int]) -> Iterator[Token]:
        sampling = replace(self.decoding.sampling, seed=self.decoding.sampling.seed + len(self.said))
        return continue_text(
            self.model,
            self.tokenizer,
            self.memory,
            whole[len(self.ids) :],
            replace(self.decoding, sampling=sampling),
            breaks_for(self.policy, self.tokenizer),
            before=self.ids,
        )

    def _keep(self, told: Sequence[Token]) -> None:
        if not told:
            self.messages.pop()
            return
        ids = [token.id for token in told]
        self.said.append(ids[:-1] if told[-1].ends == "stop token" else ids)
        self.messages.append({"role": "assistant", "content": "".join(token.text for token in told)})

    def _rewind(self, length: int) -> None:
        """Forgets what the memory holds past `length` tokens, or as little more as its way of remembering allows."""
        length = min(length, len(self.ids))
        try:
            self.memory.truncate([length])
            self.ids = self.ids[:length]
        except ValueError:
            self.forget()
            if len(self.ids) > length:
                self.memory, self.ids = self._start(), []


def as_said(tokenizer: Tokenizer, ids: Sequence[int], mask: Sequence[int], said: Sequence[Sequence[int]]) -> list[int]:
    """The conversation with the tokens that the assistant said, where the template's are the same text cut otherwise.

    `mask`: where the assistant speaks; `said`: each of its answers without the token that ended it.
    """
    pairs = zip(mask, ids, strict=True)
    runs = [(bool(spoken), [id_ for _, id_ in run]) for spoken, run in groupby(pairs, lambda pair: pair[0])]
    if sum(spoken for spoken, _ in runs) != len(said):
        return list(ids)
    answers = iter(said)
    return [id_ for spoken, run in runs for id_ in (_with(tokenizer, run, next(answers)) if spoken else run)]


def _with(tokenizer: Tokenizer, run: list[int], answer: Sequence[int]) -> list[int]:
    """An answer as the template has it, with its own tokens; as it is where its text is another."""
    text, own = tokenizer.decode(run), tokenizer.decode(answer)
    for end in range(len(run), -1, -1):
        joined = own + tokenizer.decode(run[end:])
        if joined == text:
            return [*answer, *run[end:]]
        if len(joined) > len(text):
            break
    return run
