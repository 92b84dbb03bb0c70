"""A model's folder as users know it: weights, config, tokenizer and the tokens that stop a text, together.

Knows that a tokenizer and a model must agree. Leaves the files of a model to `model/checkpoint.py` and those of a
tokenizer to `text/tokenizer.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from handscroll.model import ModelConfig, Transformer
from handscroll.model.checkpoint import lay_by_columns, load_model, read_config, replacing, resolve, save_model
from handscroll.model.weight_files import read_json, write_json
from handscroll.recipes.output import check_writable
from handscroll.recipes.placement import AUTO, chosen_device, chosen_dtype
from handscroll.text import Tokenizer

GENERATION_CONFIG = "generation_config.json"
LENGTH = "model_max_length"
# Embeddings are often padded to a round number of rows; a tokenizer with far fewer ids belongs to another model.
SMALLEST_SHARE = 0.9


class Loaded(NamedTuple):
    """What a model's folder holds."""

    model: Transformer
    tokenizer: Tokenizer


def load_folder(
    folder_or_id: str | Path,
    *,
    dtype: torch.dtype | str | None = AUTO,
    device: torch.device | str = AUTO,
    finite: bool = True,
) -> Loaded:
    """Model and tokenizer of a folder or a hub id; for `dtype` and `device` see `placement.py`, `finite` `load_model`.

    Raises FileNotFoundError for what isn't there, ValueError for what is damaged, unsupported or doesn't fit together.
    """
    device = chosen_device(device)
    dtype = chosen_dtype(dtype, device)
    folder = resolve(folder_or_id)
    # The small files first: they are read in no time, and weights may take minutes.
    read_config(folder)
    tokenizer = Tokenizer.load(folder)
    model = load_model(folder, dtype=dtype, device=device, finite=finite)
    check_vocabulary(tokenizer, model.config.vocab_size, str(folder))
    if model.device.type == "cpu":
        lay_by_columns(model)
    return Loaded(model, tokenizer)


def save_folder(model: Transformer, tokenizer: Tokenizer, folder: str | Path) -> None:
    """Writes a Hugging Face folder: config, weights, tokenizer, and in generation_config.json the tokens that stop.

    A new folder appears whole or not at all; in an existing one each file is replaced whole, and others stay.
    Raises ValueError where model and tokenizer don't agree, or `folder` is a file or can't be written.
    """
    folder = Path(folder)
    check_vocabulary(tokenizer, model.config.vocab_size, "the model")
    check_writable(folder)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    known = {key: value for key, value in ids.items() if value is not None}
    generation = read_json(folder / GENERATION_CONFIG) if (folder / GENERATION_CONFIG).is_file() else {}
    stops = {"eos_token_id": list(tokenizer.stop_ids)} if tokenizer.stop_ids else {}
    with replacing(folder) as draft:
        # A model that was loaded goes back with the config that it came with.
        save_model(model, draft, extra_config=known if model.source is None else None)
        tokenizer.save(draft)
        write_json(draft / GENERATION_CONFIG, generation | known | stops)


class Changed(NamedTuple):
    """The config that a folder has, and what became of it."""

    before: ModelConfig
    after: ModelConfig


def read_changed(folder: Path, change: Callable[[ModelConfig], ModelConfig]) -> Changed:
    """A folder's config, and changed. ValueError as from `change`, and where config.json has no words for it."""
    family, before, content = read_config(folder)
    after = change(before)
    if after != before:
        family.write(after, content)
    return Changed(before, after)


def allow_length(tokenizer: Tokenizer, tokens: int) -> None:
    """Raises the length from which readers of its files complain, or cut, to at least `tokens` (mutates)."""
    longest = tokenizer.config.get(LENGTH)
    if isinstance(longest, int) and longest < tokens:
        tokenizer.config[LENGTH] = tokens


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, owner: str) -> None:
    """Raises ValueError unless every id of the tokenizer has an embedding, and nearly every embedding an id."""
    ids = tokenizer.vocab_size
    if ids > vocab_size or ids < SMALLEST_SHARE * vocab_size:
        raise ValueError(
            f"the tokenizer has {ids} tokens and {owner} embeddings for {vocab_size}: they don't belong together; "
            "use the tokenizer that the model was trained with"
        )
