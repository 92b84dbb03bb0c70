"""A whole training run from a recipe: rows, tokenizer, model, source, training, a Hugging Face folder.

What it writes to the recipe's `out`: `recipe.yaml` (with every default), `log.jsonl` and checkpoints `step-NNNNNN`
(the training room's), `tokens/` (the corpus as the model is given it), `tokenizer/` where it learnt one, and at the end
`model/`. What is wrong with recipe or data is said before any of these is left.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch

from handscroll.kernels.likelihood import CHUNK
from handscroll.model import ModelConfig, Transformer
from handscroll.model.checkpoint import load_model, read_config, replacing, resolve
from handscroll.model.footprint import require, training_bytes
from handscroll.model.stretching import with_config
from handscroll.recipes.data import Watch, check_enough, clearing, read_data, read_plainly, unwatched
from handscroll.recipes.folders import allow_length, check_vocabulary, read_stretched, save_folder
from handscroll.recipes.output import check_writable
from handscroll.recipes.reading import Source as RecipeSource
from handscroll.recipes.reading import read_recipe, to_yaml
from handscroll.recipes.schema import FromFolder, FromModel, NewModel, NewTokenizer, Recipe, options_of
from handscroll.text import Tokenizer
from handscroll.training import (
    OBJECTIVES,
    OPTIMIZERS,
    SCHEDULES,
    MixedSource,
    Objective,
    PackedSource,
    Progress,
    SkippedPositions,
    TrainOptions,
)
from handscroll.training import train as train_model
from handscroll.training.log import LOG_NAME

RECIPE, LOG, TOKENIZER, MODEL = "recipe.yaml", LOG_NAME, "tokenizer", "model"
TOKENS = "tokens"


class Prepared(NamedTuple):
    """All that a run needs, checked; nothing has been written yet."""

    model: Transformer
    tokenizer: Tokenizer
    source: PackedSource | MixedSource
    options: TrainOptions


def train(
    recipe: RecipeSource,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    model_folder: Path | None = None,
    watch: Watch = unwatched,
) -> Iterator[Progress]:
    """Runs a recipe (a path, a mapping or a `Recipe`); yields after every step and leaves a model in `out`.

    `model_folder` is where the model goes instead of `model/` in `out`; `watch` hears how far reading the data is.
    Reads and checks at once, trains while it is iterated. With `resume` it goes on from the newest checkpoint to the
    same bits as an uninterrupted run. Raises ValueError for a mistake in the recipe or its data, for a run that can't
    fit into memory, and for an `out` that holds another run.
    """
    checked = read_recipe(recipe, overrides)
    out = Path(checked.out)
    check_writable(out)
    if resume:
        _check_same(checked, out)
    with clearing(out):
        prepared = prepare(checked, out if resume else None, out / TOKENS, watch)
        objective = _objective(checked, prepared.tokenizer)
        # Of no rows at all: the options alone may not fit the model.
        objective.prepare({"model": prepared.model}, (), torch.Generator())
    steps = train_model({"model": prepared.model}, objective, prepared.source, prepared.options, out, resume=resume)
    return _run(checked, prepared, steps, model_folder or out / MODEL)


def _objective(recipe: Recipe, tokenizer: Tokenizer) -> Objective:
    kind = OBJECTIVES[recipe.objective.name]
    objective = cast(Objective, options_of(recipe.objective, kind, pad_id=tokenizer.pad_id or 0))
    skip = recipe.train.skip_positions
    return objective if skip is None else SkippedPositions(objective, skip.to, skip.chunks)


def prepare(
    recipe: Recipe, earlier: Path | None = None, tokens: Path | None = None, watch: Watch = unwatched
) -> Prepared:
    """Reads what the recipe names. `earlier` is the folder of the run that is resumed: its tokenizer is taken again.

    `tokens` is the folder that the corpus's tokens are written to and read from; without one they are held in memory.
    """
    tokenizer = _tokenizer(recipe, earlier, watch)
    config = _config(recipe, tokenizer)
    window = _window(recipe, config)
    how = recipe.train
    windows_per_batch = how.windows_per_step // how.micro_batches
    needed = training_bytes(
        config,
        windows_per_batch * window,
        optimizer=recipe.optimizer.name,
        activation_checkpointing=how.activation_checkpointing,
        logits_at_once=CHUNK,
    )
    require(needed.total, f"training ({needed.describe()})")
    data = read_data(recipe.data, tokenizer, recipe.objective.name, tokens, watch)
    check_enough(data, window)
    sources = [PackedSource(rows, window, windows_per_batch, how.seed, how.micro_batches) for rows in data]
    weights = [part.weight for part in recipe.data.parts]
    source = sources[0] if len(sources) == 1 else MixedSource(sources, weights, how.seed)
    options = TrainOptions(
        steps=how.steps or _steps(how.epochs or 1, sources, how.windows_per_step),
        seed=how.seed,
        accumulation=how.micro_batches,
        optimizer=options_of(recipe.optimizer, OPTIMIZERS[recipe.optimizer.name]),
        schedule=options_of(recipe.schedule, SCHEDULES[recipe.schedule.name]),
        clip=how.clip,
        activation_checkpointing=how.activation_checkpointing,
        checkpoint_every=how.checkpoint_every,
        keep=how.keep,
    )
    return Prepared(_model(recipe, config), tokenizer, source, options)


def _run(recipe: Recipe, prepared: Prepared, steps: Iterator[Progress], model_folder: Path) -> Iterator[Progress]:
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    _write_recipe(recipe, out / RECIPE)
    if _learns_tokenizer(recipe) and not (out / TOKENIZER).is_dir():
        with replacing(out / TOKENIZER) as draft:
            prepared.tokenizer.save(draft)
    yield from steps
    save_folder(prepared.model, prepared.tokenizer, model_folder)


def _tokenizer(recipe: Recipe, earlier: Path | None, watch: Watch) -> Tokenizer:
    """The one that is named, else the model's own, else one that is learnt from the data (or was, before)."""
    if isinstance(recipe.tokenizer, FromFolder):
        return Tokenizer.load(resolve(recipe.tokenizer.source))
    if isinstance(recipe.model, FromModel):
        if recipe.tokenizer is not None:
            raise ValueError("tokenizer.vocab_size: model.from is given, and its weights know only its own tokenizer")
        tokenizer = Tokenizer.load(resolve(recipe.model.source))
        if recipe.model.stretch is not None:
            allow_length(tokenizer, recipe.model.stretch.to)
        return tokenizer
    if earlier is not None and (earlier / TOKENIZER).is_dir():
        return Tokenizer.load(earlier / TOKENIZER)
    options = recipe.tokenizer or NewTokenizer()
    texts = read_plainly(recipe.data, watch)
    return Tokenizer.train(texts, options.vocab_size, kind=options.kind, han=options.han)


def _learns_tokenizer(recipe: Recipe) -> bool:
    return isinstance(recipe.model, NewModel) and not isinstance(recipe.tokenizer, FromFolder)


def _config(recipe: Recipe, tokenizer: Tokenizer) -> ModelConfig:
    if isinstance(recipe.model, NewModel):
        return recipe.model.config(tokenizer.vocab_size)
    folder, stretch = resolve(recipe.model.source), recipe.model.stretch
    if stretch is None:
        _, config, _ = read_config(folder)
    else:
        config = read_stretched(folder, stretch.method, stretch.to, stretch.options).after
    check_vocabulary(tokenizer, config.vocab_size, recipe.model.source)
    return config


def _model(recipe: Recipe, config: ModelConfig) -> Transformer:
    if isinstance(recipe.model, FromModel):
        # Whatever the file's dtype: small updates are lost in 16 bits.
        model = load_model(resolve(recipe.model.source), dtype=torch.float32)
        return model if recipe.model.stretch is None else with_config(model, config)
    return Transformer(config, seed=recipe.train.seed)


def _window(recipe: Recipe, config: ModelConfig) -> int:
    stretch = recipe.model.stretch if isinstance(recipe.model, FromModel) else None
    # With dynamic NTK the config's own window stays the one that was trained.
    longest = config.max_positions if stretch is None else stretch.to
    window = recipe.train.window or longest
    if window > longest:
        raise ValueError(f"train.window={window} is more than the model's window, {longest}: make it smaller")
    skip = recipe.train.skip_positions
    if skip is not None and not window <= skip.to <= longest:
        raise ValueError(
            f"train.skip_positions.to={skip.to} must lie between train.window, {window}, and the model's window, "
            f"{longest}: change it, or stretch the model (model.stretch)"
        )
    return window


def _steps(epochs: float, sources: Sequence[PackedSource], windows_per_step: int) -> int:
    """Steps that draw as many windows as `epochs` passes over all the data have, the last one rounded up."""
    whole, rest = divmod(epochs, 1)
    windows = 0
    for source in sources:
        counts = [source.packed(epoch) for epoch in range(math.ceil(epochs))]
        windows += sum(counts[: int(whole)]) + (math.ceil(rest * counts[-1]) if rest else 0)
    return math.ceil(windows / windows_per_step)


def _check_same(recipe: Recipe, out: Path) -> None:
    """Refuses to resume another run; which folder it stands in doesn't matter."""
    path = out / RECIPE
    if not path.is_file():
        return
    before, now = (_flat(each.model_dump(mode="json", by_alias=True)) for each in (read_recipe(path), recipe))
    for key in [*before, *now]:
        if key != "out" and before.get(key) != now.get(key):
            raise ValueError(
                f"{key} was {before.get(key)} in {path} and is {now.get(key)} now: a resumed run must be the same run; "
                "give the same recipe, or another folder as out"
            )


def _flat(content: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(content, dict):
        return {prefix: content}
    return {
        name: leaf
        for key, value in content.items()
        for name, leaf in _flat(value, f"{prefix}.{key}" if prefix else key).items()
    }


def _write_recipe(recipe: Recipe, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(to_yaml(recipe), encoding="utf-8")
    os.replace(temporary, path)
