"""Handscroll: a long-context language-model system that reads far past the window its models were trained on.

    import handscroll as hs
    model, tokenizer = hs.load("folder or hub id")
    logits_BTV = model(tokens_BT)                             # int64 (B, T) -> float32 (B, T, V)
    for token in hs.generate(model, tokenizer, "text", cache="block_memory", max_new_tokens=64, temperature=0.0): ...
    for progress in hs.train(recipe): ...
    table = hs.evaluate(model, tokenizer, suite="recall", policies=["full", "block_memory"])
    hs.save(model, tokenizer, folder)

These five functions, and the types that they return, are the public API. Each forwards to a recipe, which is imported
when it is called: `import handscroll` takes no time. A mistake of the caller's is a ValueError or a FileNotFoundError
that says the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from handscroll.kvcache import Policy
    from handscroll.measure.table import Table
    from handscroll.model import Transformer
    from handscroll.recipes.decoding import DecodingOptions
    from handscroll.recipes.folders import Loaded
    from handscroll.recipes.generate import Prompt, Token
    from handscroll.recipes.schema import Recipe
    from handscroll.text import Tokenizer
    from handscroll.training import Progress

__all__ = ["evaluate", "generate", "load", "save", "train"]


def load(
    folder_or_hub_id: str | Path,
    *,
    dtype: torch.dtype | str | None = "auto",
    device: torch.device | str = "auto",
    finite: bool = True,
) -> Loaded:
    """Reads a model and its tokenizer, `(Transformer, Tokenizer)`, from a Hugging Face folder or a hub id ("org/name",
    "org/name@revision").

    `device` "auto" is the GPU where there is one. `dtype` "auto" is float32 on a CPU, where half precision is slow, and
    the file's on a GPU; None is the file's anywhere. `finite=False` takes weights that hold NaN or infinity.
    Code that comes with a checkpoint is never run.
    Raises FileNotFoundError for what isn't there; ValueError for what is damaged, not supported, too large for the
    memory, or doesn't fit together.
    """
    from handscroll.recipes.folders import load_folder

    return load_folder(folder_or_hub_id, dtype=dtype, device=device, finite=finite)


def save(model: Transformer, tokenizer: Tokenizer, folder: str | Path) -> None:
    """Writes a Hugging Face folder that `transformers` and `load` read; a new folder appears whole or not at all.

    Raises ValueError where model and tokenizer don't agree, or where `folder` is a file or can't be written.
    """
    from handscroll.recipes.folders import save_folder

    save_folder(model, tokenizer, folder)


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
    """Continues a text, or answers a conversation ([{"role": "user", "content": ...}]); yields `Token(id, text)`.

    `context` is a text of any length that is read before the prompt, such as the book that a question is about.
    `cache` is the way of remembering: "block_memory", {"policy": "sliding_window", "window": 256}, or a policy. None is
    block_memory, or full for a model that reads what it continues in both directions.
    Temperature 0 is greedy; above it, tokens are drawn by `seed`. `stop_ids` end the text (default: the tokenizer's).
    `on_read(done, total)` is called while a long prompt is read, in tokens. `options`:

    - what is drawn from: `top_k`, `top_p`, `min_p`, `typical`, `logit_bias` {token: value}
    - against repetition: `repetition_penalty`, `presence_penalty`, `frequency_penalty`, `no_repeat_ngram`
    - `stop`: a text, or several, before which it ends; `logprobs`: of how many other tokens to tell log-probabilities
    - several attempts: `beams` (with `length_penalty`, `early_stopping`), or `best_of` samples

    Raises ValueError for unknown or impossible options, an empty prompt, and a text whose memory can't fit.
    """
    from handscroll.recipes.generate import generate as run

    return run(
        model,
        tokenizer,
        prompt,
        context=context,
        cache=cache,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        stop_ids=stop_ids,
        on_read=on_read,
        **options,
    )


def train(recipe: str | Path | Mapping[str, Any] | Recipe, *, resume: bool = False) -> Iterator[Progress]:
    """Runs a training recipe, given as the path of a YAML file, a mapping or a `Recipe`; yields after every step.

    The model's folder is `model/` in the recipe's `out` once the iterator is exhausted. With `resume` a run that was
    stopped, even killed, goes on from its last checkpoint to the same result, bit for bit.
    Raises ValueError for a mistake in the recipe or its data before anything is written.
    """
    from handscroll.recipes.train import train as run

    return run(recipe, resume=resume)


def evaluate(
    model: Transformer,
    tokenizer: Tokenizer,
    suite: str = "recall",
    policies: Sequence[str | Mapping[str, Any] | Policy] = ("full", "sliding_window", "block_memory"),
    **options: Any,
) -> Table:
    """Measures a model under several ways of remembering, side by side; `Table.records()` gives plain rows.

    "recall" reads a synthetic text and asks what it said, "perplexity" measures how well a text is predicted, "ruler",
    "needle", "qa" and others score long-context tasks; `options` are the suite's own, such as `tokens=131072`. Raises
    ValueError for an unknown suite, policy or option.
    """
    from handscroll.measure.suites import evaluate as run

    return run(model, tokenizer, suite, policies, **options)
