"""From a conversation to ids, with a mask over what the assistant said.

Knows how to keep control tokens that a user typed from being obeyed, and how characters map to tokens. Leaves to
others what a template is (`templates.py`) and what is trained on the mask (objectives).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from handscroll.text.templates import (
    DEFAULT_CHAT_TEMPLATE,
    Message,
    Rendered,
    check_messages,
    render,
    unused_characters,
)
from handscroll.text.tokenizer import Tokenizer

# What a template may name, as in transformers.
TEMPLATE_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

__all__ = ["DEFAULT_CHAT_TEMPLATE", "ChatTokens", "Message", "Rendered", "chat_tokens", "render"]


class ChatTokens(NamedTuple):
    """Ids of a conversation; mask is 1 where the assistant spoke."""

    ids: list[int]
    mask: list[int]


def chat_tokens(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False, *, given: int = 0
) -> ChatTokens:
    """Ids and assistant mask of a conversation under the tokenizer's own template.

    The first `given` messages are only read: what the assistant says in them is not marked.

    Control tokens are taken from the template only. Inside the messages every name of one is broken up by a guard
    character before rendering, and the guards are taken out again after the text was cut at the names that are still
    whole; what lies between is encoded as plain text. So "<|end|>" typed by a user stays seven characters.

    A template without `{% generation %}` marks: the mask is found by rendering growing conversations, and stays 0
    where the template rewrites earlier turns.
    """
    if tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template; save one as chat_template in its tokenizer_config.json")
    check_messages(messages)
    # A name of a single character can't be broken up. Longest first: one name may begin another.
    names = sorted((name for name in tokenizer.special_tokens if len(name) > 1), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, names)) or "(?!)")
    variables = {key: _name(tokenizer.config[key]) for key in TEMPLATE_TOKENS if tokenizer.config.get(key)}
    guard = unused_characters(tokenizer.chat_template, messages, variables)[2]
    guarded = [_guarded(message, pattern, guard) for message in messages]

    def rendering(conversation: Sequence[Message], prompt: bool) -> Rendered:
        return render(str(tokenizer.chat_template), conversation, prompt, variables=variables)

    text, spans = rendering(guarded, add_generation_prompt)
    if not spans and not re.search(r"\{%-?\s*generation\b", tokenizer.chat_template):
        spans = _spans_by_growing(rendering, guarded, text)
    ids, offsets = _encode(tokenizer, text, pattern, guard)
    spoken = bytearray(len(text))
    for start, end in spans:
        spoken[start:end] = b"\x01" * (end - start)
    if given:
        before = rendering(guarded[:given], False).text
        if not text.startswith(before):
            raise ValueError("the chat template rewrites the prompt once an answer follows: give the row as messages")
        spoken[: len(before)] = bytes(len(before))
    return ChatTokens(ids, [int(1 in spoken[start:end]) for start, end in offsets])


def _spans_by_growing(
    rendering: Callable[[Sequence[Message], bool], Rendered], messages: Sequence[Message], text: str
) -> list[tuple[int, int]]:
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant" or number == 0:
            continue
        before = rendering(messages[:number], True).text
        after = rendering(messages[: number + 1], False).text.rstrip()
        if after.startswith(before) and text.startswith(after):
            spans.append((len(before), len(after)))
    return spans


def _guarded(value: Any, names: re.Pattern[str], guard: str) -> Any:
    """The same value with every control token's name in its strings broken up."""
    if isinstance(value, str):
        while names.search(value):  # again, since names may overlap
            value = names.sub(lambda name: guard.join(name[0]), value)
        return value
    if isinstance(value, Mapping):
        return {key: _guarded(item, names, guard) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded(item, names, guard) for item in value]
    return value


def _encode(
    tokenizer: Tokenizer, text: str, names: re.Pattern[str], guard: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids, and the characters of the guarded text that each covers."""
    if guard not in text:  # in one piece, since some vocabularies treat the beginning of a text in their own way
        return tokenizer.encode_with_offsets(text, special=True)
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    control = names.finditer(text)
    position = 0
    while position < len(text):
        token = next(control, None)
        end = token.start() if token else len(text)
        kept = [index for index in range(position, end) if text[index] != guard]
        encoding = tokenizer.encode_with_offsets("".join(text[index] for index in kept))
        ids.extend(encoding.ids)
        # A token that a vocabulary adds by itself covers nothing: first == last.
        offsets.extend((kept[first], kept[max(first, last - 1)] + 1) for first, last in encoding.offsets)
        position = end
        if token:
            ids.append(tokenizer.id_of(token[0]))
            offsets.append(token.span())
            position = token.end()
    return ids, offsets


def _name(token: Any) -> Any:
    return token["content"] if isinstance(token, Mapping) and "content" in token else token
