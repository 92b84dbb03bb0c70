"""`handscroll embed`: texts as vectors, and how near they are to each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from handscroll.cli.commands import Device, Dtype, ModelName
from handscroll.cli.display import console, print_json, print_table, showing
from handscroll.recipes.events import Advance

if TYPE_CHECKING:
    from torch import Tensor

    from handscroll.measure.table import Table

# Of more texts than these only the nearest one is told; of a longer text the beginning is shown.
ALL_PAIRS, SHOWN = 8, 40


def embed(
    model: ModelName,
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Texts, or files of them: each line of a txt or md file is a text, and each row of a jsonl, json, csv "
            "or parquet file.",
            metavar="TEXT|FILE...",
        ),
    ],
    pooling: Annotated[
        str | None,
        typer.Option(
            help="What of a text's hidden states its vector is: mean, first or last. By default as the folder's "
            "modules.json says, and the mean where it has none.",
            show_default=False,
        ),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Bring each vector to length 1. By default as modules.json says, and so where there is none.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A .npy file for the vectors: float32, a row per text.", show_default=False)
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print vectors and cosines as JSON, and only that, on stdout.")
    ] = False,
) -> None:
    """Turn texts into vectors, and show how near they are to each other.

    For sentence encoders such as all-MiniLM-L6-v2; any other model gives vectors, too, if less useful ones. Cosines
    run from -1 to 1: the nearer to 1, the more alike two texts are.

    Examples:

    \b
      handscroll embed sentence-transformers/all-MiniLM-L6-v2 "A cat sleeps." "A kitten naps." "Stocks fell."
      handscroll embed sentence-transformers/all-MiniLM-L6-v2 sentences.txt --out vectors.npy
      handscroll embed sentence-transformers/all-MiniLM-L6-v2 "A cat sleeps." --json
    """
    if out is not None and out.suffix != ".npy":
        raise ValueError(f"--out {out}: vectors are written as .npy; give a name that ends so")
    import torch

    from handscroll.recipes.embed import load_encoder, texts_of

    texts = texts_of(sources)
    encoder = load_encoder(model, pooling=pooling, normalize=normalize, dtype=dtype, device=device)
    vectors_NE = torch.empty(len(texts), encoder.model.config.width)
    tokens, truncated, done = [0] * len(texts), [False] * len(texts), 0
    with showing(console(True)) as display:
        for part in encoder.stream(texts):
            vectors_NE[part.places] = part.vectors_NE
            for place, length, is_cut in zip(part.places, part.tokens, part.truncated, strict=True):
                tokens[place], truncated[place] = length, is_cut
            done += len(part.places)
            if len(texts) > len(part.places):
                display.advance(Advance("embedding", done, len(texts), "texts"))
    if out is not None:
        _save(vectors_NE, out)
    directions_NE = torch.nn.functional.normalize(vectors_NE)
    people = console(as_json)
    if any(truncated):
        count = f"{sum(truncated):,} of {len(texts):,} texts"
        console(True).print(f"cut after {encoder.max_length:,} tokens: {count}")
    if as_json:
        told = [
            {"text": text, "tokens": count, "truncated": is_cut, "embedding": vector.tolist()}
            for text, count, is_cut, vector in zip(texts, tokens, truncated, vectors_NE, strict=True)
        ]
        options = encoder.options
        result = {"model": model, "pooling": options.pooling, "normalized": options.normalize, "texts": told}
        print_json(result | {"cosine": (directions_NE @ directions_NE.T).tolist()})
        return
    where = f", written to {out}" if out is not None else ""
    count = "1 text" if len(texts) == 1 else f"{len(texts):,} texts"
    people.print(f"{count}, {vectors_NE.shape[1]:,} numbers each{where}")
    if len(texts) > 1:
        print_table(people, nearness(texts, directions_NE))


def nearness(texts: list[str], directions_NE: Tensor) -> Table:
    """The cosine of every two texts, or of many texts each with the one that is nearest to it."""
    from handscroll.measure.table import Table

    short = [text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..." for text in texts]
    if len(texts) <= ALL_PAIRS:
        cosines = (directions_NE @ directions_NE.T).tolist()
        rows = tuple((f"{n} {text}", *row) for n, (text, row) in enumerate(zip(short, cosines, strict=True), 1))
        return Table("Cosines", ("text", *map(str, range(1, len(texts) + 1))), rows)
    pairs = []
    for place, direction_E in enumerate(directions_NE):
        cosine_N = directions_NE @ direction_E
        cosine_N[place] = -2
        pairs.append((short[place], short[int(cosine_N.argmax())], float(cosine_N.max())))
    return Table("The nearest to each", ("text", "nearest", "cosine"), tuple(pairs))


def _save(vectors_NE: Tensor, out: Path) -> None:
    import io

    import numpy as np

    from handscroll.text.files import write_files

    stream = io.BytesIO()
    np.save(stream, vectors_NE.numpy())
    write_files(out.parent, {out.name: [stream.getvalue()]})
