"""A whole training run from a recipe: what it needs (`prepare.py`), training, a Hugging Face folder.

What it writes to the recipe's `out`: `recipe.yaml` (with every default), `log.jsonl` and checkpoints `step-NNNNNN`
(the training room's), `tokens/` (the corpus as the model is given it), `tokenizer/` where it learnt one, `tensorboard/`
on request, and at the end `model/` and `report.html`. What is wrong with recipe or data is said before any of these is
left. Of several processes the first one writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from handscroll.measure.report.training_page import TrainingReport, write_training_report
from handscroll.model.checkpoint import replacing
from handscroll.model.footprint import parameter_count
from handscroll.recipes.data import Watch, clearing, unwatched
from handscroll.recipes.folders import save_folder
from handscroll.recipes.output import check_writable
from handscroll.recipes.prepare import Prepared, prepare
from handscroll.recipes.reading import Source as RecipeSource
from handscroll.recipes.reading import read_recipe, to_yaml
from handscroll.recipes.schema import Recipe
from handscroll.recipes.tensorboard import TENSORBOARD, TensorBoardLog
from handscroll.recipes.vocabulary import TOKENIZER, learns_tokenizer
from handscroll.text.files import write_files
from handscroll.training import Progress, checkpoint, parallel
from handscroll.training import train as train_model
from handscroll.training.log import LOG_NAME, read_log

TOKENS = "tokens"
# Keys that may change when a run is resumed.
ELSEWHERE = ("out", "train.device", "train.tensorboard")
RECIPE, LOG, MODEL, REPORT = "recipe.yaml", LOG_NAME, "model", "report.html"


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
    with parallel.first_alone(), clearing(out):
        prepared = prepare(checked, out if resume else None, out / TOKENS, watch)
    return run_prepared(checked, prepared, resume=resume, model_folder=model_folder)


def run_prepared(
    recipe: Recipe, prepared: Prepared, *, resume: bool = False, model_folder: Path | None = None
) -> Iterator[Progress]:
    """Trains what `prepare` made of the recipe, and leaves what `train` says."""
    out = Path(recipe.out)
    steps = train_model(
        {"model": prepared.model},
        prepared.objective,
        prepared.source,
        prepared.options,
        out,
        resume=resume,
        evaluation=prepared.evaluation,
        callbacks=[TensorBoardLog(out / TENSORBOARD)] if recipe.train.tensorboard else (),
    )
    return _run(recipe, prepared, steps, model_folder or out / MODEL)


def _run(recipe: Recipe, prepared: Prepared, steps: Iterator[Progress], model_folder: Path) -> Iterator[Progress]:
    if not parallel.is_first():
        yield from steps
        return
    out = Path(recipe.out)
    write_files(out, {RECIPE: [to_yaml(recipe)]})
    if learns_tokenizer(recipe) and not (out / TOKENIZER).is_dir():
        with replacing(out / TOKENIZER) as draft:
            prepared.tokenizer.save(draft)
    try:
        yield from steps
    except (ValueError, KeyboardInterrupt):
        # Where a run ended badly its curves are what one wants to see; the reason must not be lost over them.
        with suppress(ValueError):
            _write_report(recipe, prepared)
        raise
    best = checkpoint.load_best(out, {"model": prepared.model}) if prepared.evaluation is not None else None
    save_folder(prepared.model, prepared.tokenizer, model_folder)
    _write_report(recipe, prepared, best)


def _write_report(recipe: Recipe, prepared: Prepared, saved: int | None = None) -> None:
    log = read_log(Path(recipe.out))
    if log:
        parameters = parameter_count(prepared.model.config)
        write_training_report(Path(recipe.out) / REPORT, TrainingReport(log, parameters, to_yaml(recipe), saved))


def _check_same(recipe: Recipe, out: Path) -> None:
    """Refuses to resume another run; where it stands, computes and is watched doesn't matter."""
    path = out / RECIPE
    if not path.is_file():
        return
    before, now = (_flat(each.model_dump(mode="json", by_alias=True)) for each in (read_recipe(path), recipe))
    for key in [*before, *now]:
        if key not in ELSEWHERE and before.get(key) != now.get(key):
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
