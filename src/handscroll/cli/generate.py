"""`handscroll generate`: what a model has to say after a text."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handscroll.cli.commands import Device, DrawingSeed, Dtype, Temperature, dotted
from handscroll.cli.display import console, print_json, showing
from handscroll.recipes.events import Advance

if TYPE_CHECKING:
    from handscroll.recipes.generate import Prompt


def generate(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Folder of a model, or a hub id (org/name).")],
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The text to continue; - reads it from stdin. May be left out with --file.", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="A text that is read before the prompt, of any length: txt, md or jsonl.", show_default=False
        ),
    ] = None,
    cache: Annotated[
        str,
        typer.Option(
            help="The way of remembering: full, sliding_window, attention_sinks or block_memory. Its options follow "
            "with a dot, such as --cache.window=256."
        ),
    ] = "block_memory",
    max_new_tokens: Annotated[int, typer.Option(help="Where to stop at the latest, in tokens.")] = 64,
    temperature: Temperature = 0.0,
    seed: DrawingSeed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    chat: Annotated[
        bool, typer.Option("--chat/--no-chat", help="Take the prompt as a message, and have it answered.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print text, tokens and seconds as JSON, and only that, on stdout.")
    ] = False,
) -> None:
    """Continue a text, or answer a message.

    The continuation alone goes to stdout, token by token; how far a long text was read is shown on stderr.

    Examples:

    \b
      handscroll generate quickstart/model "Once upon a time"
      handscroll generate quickstart/model "Who was the teacher of Anna Berg?" --file book.txt --chat
      echo "Once upon a time" | handscroll generate quickstart/model - --temperature 0.8 --seed 3
      handscroll generate quickstart/model "Once" --cache sliding_window --cache.window=256
    """
    policy = {"policy": cache, **dotted(ctx, "cache")}
    text, context = _texts(prompt, file)
    if chat and not text.strip():
        raise ValueError("--chat answers a message: give it as PROMPT")
    import handscroll

    loaded = handscroll.load(model, dtype=dtype, device=device)
    asked: Prompt = [{"role": "user", "content": text}] if chat else text
    started, total = time.perf_counter(), 0
    with showing(console(True)) as display:

        def on_read(done: int, of: int) -> None:
            nonlocal total
            # A prompt that is read at one go needs no bar.
            if done < of or total:
                display.advance(Advance("reading", done, of, "tokens", done / (time.perf_counter() - started)))
            total = of

        tokens = handscroll.generate(
            loaded.model,
            loaded.tokenizer,
            asked,
            context=context,
            cache=policy,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            on_read=on_read,
        )
        # Reading ends with the first token; its bar must be gone before text is written to the same terminal.
        emitted = [next(tokens)]
    read = time.perf_counter()
    if not as_json:
        _write(emitted[0].text)
    for token in tokens:
        emitted.append(token)
        if not as_json:
            _write(token.text)
    if not as_json:
        _write("\n")
        return
    is_stopped = emitted[-1].id in loaded.tokenizer.stop_ids
    print_json(
        {
            "text": "".join(token.text for token in emitted),
            "tokens": [token.id for token in emitted],
            "prompt_tokens": total,
            "cache": policy,
            "stopped_by": "stop token" if is_stopped else "max_new_tokens",
            "seconds_reading": round(read - started, 3),
            "seconds_writing": round(time.perf_counter() - read, 3),
        }
    )


def _texts(prompt: str | None, file: Path | None) -> tuple[str, str]:
    """The prompt and what is read before it. ValueError where there is neither."""
    if prompt is None and file is None:
        raise ValueError("there is nothing to continue: give a PROMPT, or - for stdin, or --file")
    if prompt == "-":
        prompt = sys.stdin.read()
    if file is None:
        return prompt or "", ""
    from handscroll.text import read_texts

    return prompt or "", "\n".join(read_texts(file))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
