"""Vectors of texts: a sentence encoder's folder, and what of a command line are texts and what files of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from handscroll.generation import SentenceEncoder, read_sentence_options
from handscroll.model.checkpoint import resolve
from handscroll.recipes.folders import load_folder
from handscroll.recipes.placement import AUTO
from handscroll.text import read_texts
from handscroll.text.formats import GZIP, READERS

LINES = (".txt", ".md")


def load_encoder(
    folder_or_id: str | Path,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    dtype: torch.dtype | str | None = AUTO,
    device: torch.device | str = AUTO,
) -> SentenceEncoder:
    """The model of a folder or a hub id as its modules.json says, or as said here. Raises as `load_folder`, and
    ValueError for steps that aren't supported."""
    folder = resolve(folder_or_id)
    options = read_sentence_options(folder)
    asked: dict[str, Any] = {"pooling": pooling, "normalize": normalize}
    options = replace(options, **{key: value for key, value in asked.items() if value is not None})
    model, tokenizer = load_folder(folder, dtype=dtype, device=device)
    return SentenceEncoder(model, tokenizer, options)


def texts_of(sources: Sequence[str]) -> list[str]:
    """What is no file is a text itself. A line of a .txt or .md file is a text, and so is a row of any other.

    Raises ValueError where that makes no text at all, and for the name of a file that isn't there.
    """
    texts: list[str] = []
    for source in sources:
        if not _is_file(source):
            if len(source.split()) == 1 and Path(source).suffix.lower() in (*READERS, GZIP):
                raise ValueError(f"{source} is no file here: check the path, or give a text of more than a name")
            texts.append(source)
            continue
        found = read_texts(source)
        is_lines = Path(source).suffix.lower() in LINES
        texts += [line for text in found for line in text.splitlines() if line.strip()] if is_lines else found
    if not texts:
        raise ValueError("there is no text: give one, or a file that holds some")
    return texts


def _is_file(source: str) -> bool:
    try:
        return Path(source).is_file()
    except (OSError, ValueError):  # a long text is no name
        return False
