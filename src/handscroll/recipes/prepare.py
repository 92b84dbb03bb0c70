"""What a recipe's run needs, read and checked before any of it is written: tokenizer, model, rows, objective.

What is wrong with recipe or data is said here. The run itself is `train.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from handscroll.kernels.likelihood import CHUNK
from handscroll.model import ModelConfig, Transformer
from handscroll.model.checkpoint import load_model, resolve
from handscroll.model.footprint import Footprint, require, training_bytes
from handscroll.model.sharing import share_heads
from handscroll.model.slots import Learned2dOptions, LearnedOptions
from handscroll.model.stretching import with_config
from handscroll.recipes.data import Watch, check_enough, read_data, unwatched
from handscroll.recipes.devices import training_device
from handscroll.recipes.folders import check_vocabulary, read_changed
from handscroll.recipes.held_out import hold_out
from handscroll.recipes.model_section import FromModel, NewModel
from handscroll.recipes.schema import Data, Recipe
from handscroll.recipes.schema import Evaluation as EvaluationSection
from handscroll.recipes.sections import options_of
from handscroll.recipes.vocabulary import find_tokenizer, make_finder, make_objective, origin_of
from handscroll.text import Tokenizer
from handscroll.training import (
    OBJECTIVES,
    OPTIMIZERS,
    SCHEDULES,
    Evaluation,
    MixedSource,
    Objective,
    PackedSource,
    SkippedPositions,
    TokenRows,
    TrainOptions,
    check_model,
    text_window,
)
from handscroll.training.precision import check_precision, default_precision

# Under the tokens of what is trained on, those of what is only evaluated on.
EVALUATED = "evaluated"


class Prepared(NamedTuple):
    """All that a run needs, checked; nothing has been written yet."""

    model: Transformer
    tokenizer: Tokenizer
    objective: Objective
    source: PackedSource | MixedSource
    options: TrainOptions
    evaluation: Evaluation | None
    footprint: Footprint


def prepare(
    recipe: Recipe, earlier: Path | None = None, tokens: Path | None = None, watch: Watch = unwatched
) -> Prepared:
    """Reads what the recipe names. `earlier` is the folder of the run that is resumed: its tokenizer is taken again.

    `tokens` is the folder that the corpus's tokens are written to and read from; without one they are held in memory.
    """
    tokenizer = find_tokenizer(recipe, earlier, watch)
    config = _config(recipe, tokenizer)
    window = _window(recipe, config)
    how, device = recipe.train, training_device(recipe.train.device)
    precision = how.precision or default_precision(device)
    check_precision(precision, device)
    windows_per_batch = how.windows_per_step // how.micro_batches
    needed = training_bytes(
        config,
        windows_per_batch * window,
        optimizer=recipe.optimizer.name,
        activation_checkpointing=how.activation_checkpointing,
        logits_at_once=CHUNK,
    )
    require(needed.total, f"training ({needed.describe()})", device)
    data, unseen = training_data(recipe, tokenizer, tokens, watch)
    check_enough(data, window)
    objective = _objective(recipe, tokenizer, window)
    room, text = objective.needs.room, text_window(objective, window)
    sources = [PackedSource(rows, text, windows_per_batch, how.seed, how.micro_batches, room) for rows in data]
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
        precision=precision,
    )
    check_model(objective, config)
    model = _model(recipe, config).to(device)
    model.attend_by(how.attention_kernel)
    # Of no rows at all: the options alone may not fit the model.
    objective.prepare({"model": model}, (), torch.Generator())
    evaluation = _evaluation(recipe, unseen, text, windows_per_batch)
    return Prepared(model, tokenizer, objective, source, options, evaluation, needed)


def training_data(
    recipe: Recipe, tokenizer: Tokenizer, tokens: Path | None, watch: Watch
) -> tuple[list[TokenRows], list[TokenRows]]:
    """The parts to train on, and what to evaluate on, if anything."""
    finder = make_finder(recipe.objective)
    data = read_data(recipe.data, tokenizer, recipe.objective.name, tokens, watch, finder)
    if recipe.data.held_out is not None:
        splits = [hold_out(rows, recipe.data.held_out, recipe.train.seed) for rows in data]
        return [split.training for split in splits], [split.held_out for split in splits]
    if recipe.data.eval is not None:
        own = Data(files=recipe.data.eval, skip_bad=recipe.data.skip_bad)
        folder = None if tokens is None else tokens / EVALUATED
        return data, read_data(own, tokenizer, recipe.objective.name, folder, watch, finder)
    return data, []


def _objective(recipe: Recipe, tokenizer: Tokenizer, window: int) -> Objective:
    objective = make_objective(recipe.objective, tokenizer, origin_of(recipe), window)
    skip = recipe.train.skip_positions
    return objective if skip is None else SkippedPositions(objective, skip.to, skip.chunks)


def _evaluation(recipe: Recipe, unseen: Sequence[TokenRows], window: int, windows_per_batch: int) -> Evaluation | None:
    """All that isn't trained on, packed once, in batches of the size that training has."""
    if not unseen:
        return None
    room = OBJECTIVES[recipe.objective.name].needs.room
    sources = [PackedSource(rows, window, windows_per_batch, recipe.train.seed, room=room) for rows in unseen]
    windows = [each for source in sources for each in source.epoch(0)]
    batches = [windows[first : first + windows_per_batch] for first in range(0, len(windows), windows_per_batch)]
    how = recipe.evaluation or EvaluationSection()
    return Evaluation(batches, how.every, how.patience)


def _config(recipe: Recipe, tokenizer: Tokenizer) -> ModelConfig:
    """The model's, with the recipe's dropouts."""
    if isinstance(recipe.model, NewModel):
        return recipe.train.dropout.applied(recipe.model.config(tokenizer.vocab_size))
    config = read_changed(resolve(recipe.model.source), recipe.model.changed).after
    check_vocabulary(tokenizer, config.vocab_size, recipe.model.source)
    return recipe.train.dropout.applied(config)


def _model(recipe: Recipe, config: ModelConfig) -> Transformer:
    if isinstance(recipe.model, FromModel):
        # Whatever the file's dtype: small updates are lost in 16 bits.
        model = load_model(resolve(recipe.model.source), dtype=torch.float32)
        share = recipe.model.share_heads
        if share is not None:
            model = share_heads(model, share.kv_heads, share.pooling)
        return model if config == model.config else with_config(model, config)
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
        learnt = isinstance(config.position, LearnedOptions | Learned2dOptions)
        way_out = (
            f"the model has learnt vectors for {longest} positions and none for others; change it, or start a model "
            "with a larger model.window"
            if learnt
            else "change it, or stretch the model (model.stretch)"
        )
        raise ValueError(
            f"train.skip_positions.to={skip.to} must lie between train.window, {window}, and the model's window, "
            f"{longest}: {way_out}"
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
