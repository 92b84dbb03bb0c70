"""A text is read once, under one way of remembering; what is remembered of it is saved and asked later (`ask.py`).

It is saved on the way, too: a reading that was killed goes on from there to the same memory. Whoever opens a memory
must have the model and the tokenizer that made it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from handscroll.generation import read as read_ids
from handscroll.kvcache import Policy, breaks_for, describe, make_policy, memory_file
from handscroll.kvcache.memory_file import Memory
from handscroll.model import Transformer
from handscroll.recipes.events import Advance
from handscroll.recipes.generate import context_ids
from handscroll.recipes.memory_needs import require_memory
from handscroll.recipes.output import check_writable
from handscroll.text import Tokenizer

# Seconds between two saves while reading; as a long text's memory takes long to write, no more than a share of them.
SAVE_EVERY, SAVING = 60.0, 0.1
# Tokens that a question and its answer may add to what was read.
ROOM = 4096


def begin(
    model: Transformer, tokenizer: Tokenizer, text: str, cache: str | Mapping[str, Any] | Policy, maker: str
) -> Memory:
    """The memory of a text of which nothing has been read yet; `maker` names the model for people.

    ValueError for an empty text, unknown or impossible options, and a text whose memory can't fit.
    """
    if not text.strip():
        raise ValueError("the text is empty: give one that holds words")
    if model.config.mask == "prefix":
        raise ValueError(
            "this model reads a text and what is asked about it together, in both directions: nothing of it can be "
            "remembered for later questions; use handscroll ask with --file"
        )
    policy, ids = make_policy(cache), torch.tensor(context_ids(tokenizer, text), dtype=torch.int32)
    require_memory(model, policy, len(ids) + ROOM)
    started = policy.start(model.config, model.position, 1)
    return Memory(started, policy, {"ids": ids, "tokenizer": tokenizer.fingerprint}, maker)


def go_on(path: Path, model: Transformer, begun: Memory) -> Memory:
    """What a reading that was stopped has saved; `begun` itself where it was stopped before that.

    ValueError where the file is the memory of another text, model, tokenizer or way of remembering.
    """
    if not path.exists():
        return begun
    saved = memory_file.load(path, model)
    if saved.policy != begun.policy:
        raise ValueError(
            f"{path} remembers by {describe(saved.policy)}, not by {describe(begun.policy)}: go on with the same "
            "options, or save to another file"
        )
    if saved.notes["tokenizer"] != begun.notes["tokenizer"] or not saved.notes["ids"].equal(begun.notes["ids"]):
        raise ValueError(f"{path} is the memory of another text: go on with the same files, or save to another file")
    return saved


def read(model: Transformer, tokenizer: Tokenizer, memory: Memory, save_to: Path | None = None) -> Iterator[Advance]:
    """Reads what the memory lacks of its text (mutates), and saves it to a file now and then, and at the end.

    The chunks are those of a reading that was never stopped, and so is the memory.
    """
    if save_to is not None:
        check_target(save_to)
    done, total = memory.cache.lengths[0], length_of(memory)
    if done == total:
        return
    began = saved = time.monotonic()
    pause, ids = SAVE_EVERY, memory.notes["ids"][done:].tolist()
    breaks = breaks_for(memory.policy, tokenizer)
    for progress in read_ids(model, [ids], memory.cache, only_last=True, breaks=breaks):
        now = time.monotonic()
        yield Advance("reading", done + progress.tokens, total, "tokens", progress.tokens / (now - began))
        is_last = progress.tokens == progress.total
        if save_to is not None and (is_last or now - saved >= pause):
            memory_file.save(save_to, memory, model)
            saved = time.monotonic()
            pause = max(SAVE_EVERY, (saved - now) / SAVING)


def open_memory(path: Path, model: Transformer, tokenizer: Tokenizer) -> Memory:
    """A memory to be asked. Besides what `memory_file.load` refuses, ValueError for another tokenizer, and for a text
    that wasn't read to its end."""
    memory = memory_file.load(path, model)
    if memory.notes["tokenizer"] != tokenizer.fingerprint:
        raise ValueError(f"{path} was made with another tokenizer: give the model's folder as it was, {memory.maker}")
    done, total = memory.cache.lengths[0], length_of(memory)
    if done < total:
        raise ValueError(
            f"{path} holds {done:,} of {total:,} tokens, as reading was stopped: finish it with the command that began "
            "it and --resume"
        )
    return memory


def length_of(memory: Memory) -> int:
    """Tokens of the whole text."""
    return len(memory.notes["ids"])


def check_target(path: Path) -> None:
    """Raises ValueError unless a memory can be saved there. Leaves nothing behind but the folder that it will be in."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file, such as {path / 'book.memory'}")
    check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
