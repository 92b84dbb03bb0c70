"""`handscroll ask`: questions about a text, or about a memory of one that was saved."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handscroll.cli.commands import DOTTED, Device, Dtype, ModelName, dotted
from handscroll.cli.decoding import DrawingSeed, Temperature
from handscroll.cli.display import console, print_json
from handscroll.cli.read import show_reading

if TYPE_CHECKING:
    from handscroll.kvcache.memory_file import Memory
    from handscroll.recipes.ask import Passage
    from handscroll.recipes.folders import Loaded
    from handscroll.recipes.generate import Token


def ask(
    ctx: typer.Context,
    model: ModelName,
    questions: Annotated[
        list[str], typer.Argument(help="What you want to know; several are answered one by one.", metavar="QUESTION...")
    ],
    memory: Annotated[
        Path | None, typer.Option(help="What handscroll read has saved, of the same model.", show_default=False)
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(help="Instead: a text that is read first, txt, md or jsonl; may be repeated.", show_default=False),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            help="With --file, the way of remembering: block_memory if none is given (full for a model that it "
            "can't serve), sliding_window and others. Its options follow with a dot, such as --cache.window=256.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 64,
    temperature: Temperature = 0.0,
    seed: DrawingSeed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print answers, tokens, seconds and the passages that were looked at as JSON, and only that, on "
            "stdout.",
        ),
    ] = False,
) -> None:
    """Answer questions about a text.

    With --memory the text was read before, and the answer comes at once, however long the text is. Every question is
    asked by itself: none knows of another. The answer alone goes to stdout; of several, each under its question.

    Examples:

    \b
      handscroll ask quickstart/model --memory book.memory "Who was the teacher of Anna Berg?"
      handscroll ask quickstart/model --memory book.memory "Who taught Anna Berg?" "安娜住在哪里？" --json
      handscroll ask quickstart/model --file book.txt "Who was the teacher of Anna Berg?"
    """
    options = dotted(ctx, "cache")
    started = time.perf_counter()
    import handscroll

    if (memory is None) == (not file):
        raise ValueError("say what the questions are about: either --memory, or --file once or several times")
    if memory is not None and (cache is not None or ctx.meta.get(DOTTED)):
        raise ValueError(f"{memory} has a way of remembering of its own: leave --cache out, or read again with --file")
    loaded = handscroll.load(model, dtype=dtype, device=device)
    from handscroll.kvcache import describe, make_policy, usual_policy
    from handscroll.recipes.ask import ask as answer
    from handscroll.recipes.ask import ask_anew

    chosen = {"policy": cache or usual_policy(loaded.model.config), **options}
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    answers: list[Iterator[Token] | Iterator[Token | Passage]] = []
    if memory is None and loaded.model.config.mask == "prefix":
        from handscroll.recipes.generate import context_ids
        from handscroll.text import read_texts

        text = "\n".join(read_texts(file or []))
        policy, tokens_read = make_policy(chosen), len(context_ids(loaded.tokenizer, text))
        for question in questions:
            answers.append(ask_anew(loaded.model, loaded.tokenizer, text, question, cache=chosen, **settings))
    else:
        opened = _remembered(loaded, model, memory, file or [], chosen)
        policy, tokens_read = opened.policy, opened.cache.lengths[0]
        for question in questions:
            answers.append(answer(loaded.model, loaded.tokenizer, opened, question, **settings))
    opening = time.perf_counter() - started
    found = []
    for question, items in zip(questions, answers, strict=True):
        if not as_json and len(questions) > 1:
            _write(f"{question}\n")
        found.append({"question": question, **_told(items, as_json)})
    if as_json:
        print_json(
            {
                "answers": found,
                "tokens_read": tokens_read,
                "cache": describe(policy),
                "seconds_opening": round(opening, 3),
            }
        )


def _remembered(loaded: Loaded, name: str, memory: Path | None, files: list[Path], policy: dict[str, Any]) -> Memory:
    """What was saved of a text, or is read of the files now."""
    from handscroll.recipes.read import begin, open_memory
    from handscroll.text import read_texts

    if memory is not None:
        return open_memory(memory, loaded.model, loaded.tokenizer)
    begun = begin(loaded.model, loaded.tokenizer, "\n".join(read_texts(files)), policy, name)
    show_reading(console(True), loaded, begun, None)
    return begun


def _told(items: Iterable[Token | Passage], as_json: bool) -> dict[str, Any]:
    """An answer as JSON has it; where nobody wants that, it is written as it comes."""
    from handscroll.recipes.generate import Token

    started, tokens, passages = time.perf_counter(), [], []
    for item in items:
        if not isinstance(item, Token):
            passages.append({"first_token": item.first_token, "text": item.text})
            continue
        tokens.append(item)
        if not as_json:
            _write(item.text)
    if not as_json:
        _write("\n")
    return {
        "answer": "".join(token.text for token in tokens).strip(),
        "tokens": [token.id for token in tokens],
        "stopped_by": tokens[-1].ends,
        "passages": passages,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
