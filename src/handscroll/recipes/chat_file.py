"""A conversation on disk: what was said as JSON, and beside it the memory of all that was read, so that nothing is read
again.

`talk.json` holds the messages, and `talk.memory` what `kvcache/memory_file.py` makes of the cache. Without the second
file the conversation is read again, but a document can't be.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from handscroll.kvcache import memory_file
from handscroll.kvcache.memory_file import Memory
from handscroll.recipes.chat import Chat
from handscroll.recipes.output import check_writable
from handscroll.text.files import write_files

FORMAT = 1


def save_chat(chat: Chat, path: Path) -> Path:
    """Writes both files (the second only if something was read); returns the path of the first."""
    path = _named(path)
    check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    if chat.ids:
        notes = {
            "ids": torch.tensor(chat.ids, dtype=torch.int32),
            "tokenizer": chat.tokenizer.fingerprint,
            "document": len(chat.document),
        }
        memory_file.save(_memory_of(path), Memory(chat.memory, chat.policy, notes, chat.maker), chat.model)
    content = {
        "format": FORMAT,
        "model": chat.maker,
        "messages": chat.messages,
        "said": [" ".join(map(str, answer)) for answer in chat.said],
        "document_tokens": len(chat.document),
    }
    write_files(path.parent, {path.name: [json.dumps(content, ensure_ascii=False, indent=2) + "\n"]})
    return path


def load_chat(chat: Chat, path: Path) -> bool:
    """Goes on with a saved conversation in place of this one (mutates); whether its memory was there, too.

    FileNotFoundError and ValueError, which leave this conversation as it is: no such file, one that is no conversation,
    a memory of another model or tokenizer, a conversation about a document without its memory.
    """
    path = _named(path)
    content = _read(path)
    if not (memory := _memory_of(path)).is_file():
        if content["document_tokens"]:
            raise ValueError(
                f"{path} is about a document, whose memory {memory} is missing: put it beside, or /file it"
            )
        chat.messages, chat.said, chat.document, chat.document_memory = content["messages"], content["said"], [], None
        chat.forget()
        return False
    loaded = memory_file.load(memory, chat.model)
    if loaded.notes["tokenizer"] != chat.tokenizer.fingerprint:
        raise ValueError(f"{memory} was made with another tokenizer: give the model's folder as it was, {loaded.maker}")
    ids = loaded.notes["ids"].tolist()
    chat.messages, chat.said = content["messages"], content["said"]
    chat.document, chat.document_memory = ids[: loaded.notes["document"]], None
    chat.policy, chat.memory, chat.ids = loaded.policy, loaded.cache, ids
    return True


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give what /save has written")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = content["format"]
        messages = [{"role": str(each["role"]), "content": str(each["content"])} for each in content["messages"]]
        said = [[int(id_) for id_ in answer.split()] for answer in content["said"]]
        found = {"messages": messages, "said": said, "document_tokens": int(content["document_tokens"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a conversation that /save has written ({error!r})") from error
    if known != FORMAT:
        raise ValueError(f"{path} is of format {known}; this version knows {FORMAT}: use the version that saved it")
    return found


def _named(path: Path) -> Path:
    return path if path.suffix == ".json" else path.with_name(f"{path.name}.json")


def _memory_of(path: Path) -> Path:
    return path.with_suffix(".memory")
