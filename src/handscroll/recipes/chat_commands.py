"""What may be typed in a chat besides messages: lines that begin with a slash, one function each.

To add a command: write a function of (chat, rest of the line) that yields events, and add it to `COMMANDS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from handscroll.kvcache import POLICIES, describe
from handscroll.measure.attended import attended_keys
from handscroll.model.footprint import readable
from handscroll.recipes.chat import Chat, ChatEvent, Left
from handscroll.recipes.chat_file import load_chat, save_chat
from handscroll.recipes.events import Said
from handscroll.recipes.values import parse_value
from handscroll.text import read_texts


class Command(NamedTuple):
    """What comes behind the name, what it does in a few words, and the function."""

    takes: str
    does: str
    run: Callable[[Chat, str], Iterator[ChatEvent]]


def handle(chat: Chat, entry: str) -> Iterator[ChatEvent]:
    """A command or a message, whatever was typed. ValueError, OSError for a user's mistake; the chat goes on."""
    if not entry.startswith("/"):
        yield from chat.answer(entry)
        return
    name, _, rest = entry[1:].strip().partition(" ")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"perhaps /{near[0]} is meant" if near else "/help lists them"
        raise ValueError(f"there is no command /{name}; {hint}; begin with a space to say this to the model")
    yield from COMMANDS[name].run(chat, rest.strip())


def _help(chat: Chat, rest: str) -> Iterator[ChatEvent]:
    lines = [(f"/{name} {command.takes}".strip(), command.does) for name, command in COMMANDS.items()]
    lines += [('"""', "begins and ends a message of several lines; so does a \\ at the end of a line, for one more")]
    width = max(len(usage) for usage, _ in lines)
    yield Said("\n".join(f"{usage:{width}}  {does}" for usage, does in lines))


def _file(chat: Chat, rest: str) -> Iterator[ChatEvent]:
    yield from chat.read_document("\n".join(read_texts(Path(_needed(rest, "/file", "a txt, md or jsonl file")))))
    yield Said(f"{len(chat.document):,} tokens of {rest} are remembered")


def _cache(chat: Chat, rest: str) -> Iterator[ChatEvent]:
    name, *options = _needed(rest, "/cache", f"one of {', '.join(POLICIES)}, options behind it: window=256").split()
    policy: dict[str, Any] = {"policy": name}
    for option in options:
        key, sign, value = option.partition("=")
        if not sign:
            raise ValueError(f"/cache {rest}: options are written window=256, not {option}")
        policy[key] = parse_value(value)
    yield from chat.remember_by(policy)
    yield Said(f"remembering by {_policy(chat)}")


def _save(chat: Chat, rest: str) -> Iterator[ChatEvent]:
    yield Said(f"saved as {save_chat(chat, Path(_needed(rest, '/save', 'the name of a file')))}")


def _load(chat: Chat, rest: str) -> Iterator[ChatEvent]:
    has_memory = load_chat(chat, Path(_needed(rest, "/load", "the name of a file that /save has written")))
    how = "with their memory" if has_memory else "without a memory: the next message reads them again"
    yield Said(f"{len(chat.messages)} messages, {how}")


def _stats(chat: Chat, rest: str) -> Iterator[ChatEvent]:
    held = chat.memory.bytes()
    attended = attended_keys(chat.model, chat.memory, chat.ids) if chat.ids else 0
    lines = [
        f"tokens read       {len(chat.ids):,}, of which {len(chat.document):,} of the document",
        f"tokens attended   {attended:,} at most by a further one",
        f"memory            {_policy(chat)}",
        f"bytes on device   {readable(held.device)}",
        f"bytes on host     {readable(held.host)}",
    ]
    if last := chat.last:
        lines.append(
            f"last answer       {last.read:,} tokens read at {_speed(last.read, last.seconds_reading)}, "
            f"{last.tokens:,} written at {_speed(last.tokens, last.seconds)}"
        )
    yield Said("\n".join(lines))


def _reset(chat: Chat, rest: str) -> Iterator[ChatEvent]:
    chat.reset()
    yield Said("what was said is forgotten" + (", the document is not" if chat.document else ""))


def _quit(chat: Chat, rest: str) -> Iterator[ChatEvent]:
    yield Left()


def _policy(chat: Chat) -> str:
    """As the command takes it."""
    name, *options = describe(chat.policy).items()
    return " ".join([name[1], *(f"{key}={value}" for key, value in options)])


def _speed(tokens: int, seconds: float) -> str:
    return f"{tokens / max(seconds, 1e-9):,.1f} tokens/s"


def _needed(rest: str, name: str, what: str) -> str:
    if not rest:
        raise ValueError(f"{name} needs {what}")
    return rest


COMMANDS = {
    "help": Command("", "this list", _help),
    "file": Command("BOOK", "read a text of any length, which the chat is about from then on", _file),
    "cache": Command("NAME [KEY=VALUE ...]", "remember in another way; a document is read again", _cache),
    "stats": Command("", "tokens read and attended, bytes, tokens per second", _stats),
    "save": Command("FILE", "keep the conversation as FILE.json, its memory as FILE.memory", _save),
    "load": Command("FILE", "go on with such a conversation", _load),
    "reset": Command("", "forget what was said, but not the document", _reset),
    "quit": Command("", "leave; so do Ctrl-D, and Ctrl-C twice", _quit),
}
