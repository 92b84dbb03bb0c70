"""`handscroll generate`: what a model has to say after a text."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handscroll.cli.commands import CacheName, Device, Dtype, ModelName, dotted
from handscroll.cli.decoding import (
    Beams,
    BestOf,
    DrawingSeed,
    EarlyStopping,
    FrequencyPenalty,
    LengthPenalty,
    LogitBias,
    LogProbs,
    MaxNewTokens,
    MinP,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
    Stop,
    StopId,
    Temperature,
    TopK,
    TopP,
    Typical,
    decoding_options,
)
from handscroll.cli.display import console, print_json, showing
from handscroll.recipes.events import Advance

if TYPE_CHECKING:
    from handscroll.recipes.generate import Prompt, Token
    from handscroll.text import Tokenizer


def generate(
    ctx: typer.Context,
    model: ModelName,
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
    cache: CacheName = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    chat: Annotated[
        bool, typer.Option("--chat/--no-chat", help="Take the prompt as a message, and have it answered.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print text, tokens and seconds as JSON, and only that, on stdout.")
    ] = False,
    temperature: Temperature = 0.0,
    seed: DrawingSeed = 0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    typical: Typical = 1.0,
    logit_bias: LogitBias = None,
    repetition_penalty: RepetitionPenalty = 1.0,
    presence_penalty: PresencePenalty = 0.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    no_repeat_ngram: NoRepeatNgram = 0,
    max_new_tokens: MaxNewTokens = 64,
    stop: Stop = None,
    stop_id: StopId = None,
    logprobs: LogProbs = None,
    beams: Beams = 1,
    length_penalty: LengthPenalty = 1.0,
    early_stopping: EarlyStopping = "no",
    best_of: BestOf = 1,
) -> None:
    """Continue a text, or answer a message.

    The continuation alone goes to stdout, token by token; how far a long text was read is shown on stderr. Beam search
    and --best-of print the best text once all are known.

    Examples:

    \b
      handscroll generate quickstart/model "Once upon a time"
      handscroll generate quickstart/model "Who was the teacher of Anna Berg?" --file book.txt --chat
      echo "Once upon a time" | handscroll generate quickstart/model - --temperature 0.8 --top-p 0.95 --seed 3
      handscroll generate quickstart/model "Once upon a time" --stop "The end" --max-new-tokens 500
      handscroll generate quickstart/model "Once upon a time" --beams 4
      handscroll generate quickstart/model "Once" --cache sliding_window --cache.window=256
    """
    cache_options = dotted(ctx, "cache")
    options = decoding_options(ctx)
    if logprobs is not None and not as_json:
        raise ValueError(f"--logprobs {logprobs}: log-probabilities are told as JSON; add --json")
    text, context = _texts(prompt, file)
    if chat and not text.strip():
        raise ValueError("--chat answers a message: give it as PROMPT")
    import handscroll
    from handscroll.kvcache import usual_policy

    loaded = handscroll.load(model, dtype=dtype, device=device)
    policy = {"policy": cache or usual_policy(loaded.model.config), **cache_options}
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
            stop_ids=(*loaded.tokenizer.stop_ids, *(stop_id or ())),
            on_read=on_read,
            **options,
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
    result = {
        "text": "".join(token.text for token in emitted),
        "tokens": [token.id for token in emitted],
        "prompt_tokens": total,
        "cache": policy,
        "stopped_by": emitted[-1].ends,
        "seconds_reading": round(read - started, 3),
        "seconds_writing": round(time.perf_counter() - read, 3),
    }
    if logprobs is not None:
        result["logprobs"] = [_logprobs(token, loaded.tokenizer) for token in emitted]
    print_json(result)


def _logprobs(token: Token, tokenizer: Tokenizer) -> dict[str, Any]:
    assert token.logprobs is not None
    best = [{"token": id_, "text": tokenizer.decode([id_]), "logprob": value} for id_, value in token.logprobs.best]
    return {"token": token.id, "text": tokenizer.decode([token.id]), "logprob": token.logprobs.chosen, "best": best}


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
