"""A comparison: variants of a recipe trained on the same tokens with the same seeds, one after the other.

What it writes to `out`: `variants/NAME`, each a run's folder as `train.py` leaves it, `tokenizers/` and `tokens/`,
which variants share, `results.json` after every run, and at the end `index.html`. The same call goes on where it was
stopped; what is finished isn't trained again, and what failed is tried again. Leaves one run to `variant_run.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from handscroll.measure.report.variants_page import PAGE, write_variants
from handscroll.measure.variants import Trained, outcomes
from handscroll.model.checkpoint import replacing
from handscroll.recipes.data import Watch, unwatched
from handscroll.recipes.events import Advance, Event, Finished, Said
from handscroll.recipes.model_section import FromFolder, FromModel
from handscroll.recipes.output import check_writable
from handscroll.recipes.prepare import training_data
from handscroll.recipes.reading import Source, read_recipe
from handscroll.recipes.results import RESULTS, plain, read_results, write_results
from handscroll.recipes.schema import Recipe
from handscroll.recipes.variant_run import Ended, Runner, train_apart
from handscroll.recipes.variants import Choice, Variant, folder_name, make_variants, tokens_per_step
from handscroll.recipes.vocabulary import find_tokenizer, learns_tokenizer
from handscroll.text import Tokenizer
from handscroll.text.formats import find_files
from handscroll.training import OBJECTIVES

RUNS, VARIANTS, TOKENIZERS, TOKENS = "runs", "variants", "tokenizers", "tokens"
# So many runs are rarely meant.
MOST = 32


class Job(NamedTuple):
    """One run: a variant with one of the seeds. `recipe` is whole but for what variants share."""

    variant: str
    seed: int
    recipe: Recipe


def compare(
    source: Source,
    choices: Sequence[Choice],
    *,
    overrides: Sequence[str] = (),
    each: bool = False,
    seeds: Sequence[int] = (),
    out: Path | None = None,
    most: int = MOST,
    runner: Runner = train_apart,
    watch: Watch = unwatched,
) -> Iterator[Event]:
    """Trains every variant with every seed (the recipe's own, where none is given); ends with `Finished`.

    `out` is the recipe's with "-compare" behind it unless given. A run that fails is a result with its reason. Raises
    ValueError before anything trains for a variant that isn't valid, for data that can't be read, for more than `most`
    runs, and for an `out` that holds another comparison.
    """
    base = read_recipe(source, overrides)
    variants = make_variants(source, choices, overrides=overrides, each=each)
    out = out or Path(f"{base.out}-compare")
    jobs = _jobs(variants, tuple(seeds) or (base.train.seed,), out, most)
    check_writable(out)
    settings = _settings(base, choices, each, jobs)
    done = _finished(out, settings)
    left = [job for job in jobs if (job.variant, job.seed) not in done]
    if done:
        others = ": going on with the others" if left else ""
        yield Said(f"{out} holds {len(done)} of {len(jobs)} runs{others}")
    prepared = [_share(job, out, watch) for job in left]
    write_results(out, settings, RUNS, (run.to_json() for run in done.values()))
    tokens = [(base.train.steps or 0) * tokens_per_step(base)] * len(jobs)
    for job, (recipe, folder) in zip(left, prepared, strict=True):
        place = jobs.index(job)
        began, whole = sum(tokens[:place]), sum(tokens)
        shown = f"{job.variant}, {place + 1} of {len(jobs)}" + (f", seed {job.seed}" if len(seeds) > 1 else "")
        yield Advance("comparing", began, whole, "tokens", None, shown)
        for step in runner(recipe, folder):
            if isinstance(step, Ended):
                trained = Trained(job.variant, job.seed, step.figures, step.curve, step.failed)
                continue
            so_far = began + tokens[place] * step.step / step.steps
            yield Advance(
                "comparing", so_far, whole, "tokens", step.tokens_per_second, f"{shown}: loss {step.loss:.3f}"
            )
        done[job.variant, job.seed] = trained
        write_results(out, settings, RUNS, (run.to_json() for run in done.values()))
        if trained.failed:
            yield Said(f"{job.variant}, seed {job.seed}, failed: {trained.failed}")
    yield Advance("comparing", sum(tokens), sum(tokens), "tokens")
    runs = [done[job.variant, job.seed] for job in jobs]
    write_variants(out, runs, settings)
    yield Said(f"wrote {out / RESULTS} and {out / PAGE}")
    found = [each.to_json() for each in outcomes(runs)]
    yield Finished({"out": str(out), **settings, "variants": found, "runs": [run.to_json() for run in runs]})


def _jobs(variants: Sequence[Variant], seeds: Sequence[int], out: Path, most: int) -> list[Job]:
    """Seeds outermost: what changes on the machine over time then meets all variants alike."""
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the seeds {', '.join(map(str, seeds))} are not all different: leave out what is given twice")
    count = len(variants) * len(seeds)
    if count < 2:
        raise ValueError("there is nothing to compare: give --vary KEY=VALUE,VALUE, such as --vary model.heads=2,4")
    if count > most:
        times = f" with {len(seeds)} seeds" if len(seeds) > 1 else ""
        raise ValueError(
            f"{len(variants)} variants{times} are {count} runs, more than {most}: give fewer values, --each to vary "
            f"one key at a time, or --most {count} if you mean it"
        )
    names: dict[str, str] = {}
    for variant in variants:
        name = folder_name(variant.name)
        taken = {*names.values()}
        names[variant.name] = next(
            each for each in (name, *(f"{name}-{number}" for number in range(2, count + 2))) if each not in taken
        )
    return [
        Job(
            variant.name,
            seed,
            read_recipe(
                variant.recipe,
                [
                    f"train.seed={seed}",
                    f"out={json.dumps(str(out / VARIANTS / _folder(names[variant.name], seed, seeds)))}",
                ],
            ),
        )
        for seed in seeds
        for variant in variants
    ]


def _folder(name: str, seed: int, seeds: Sequence[int]) -> str:
    return f"{name}-seed-{seed}" if len(seeds) > 1 else name


def _share(job: Job, out: Path, watch: Watch) -> tuple[Recipe, Path]:
    """The run's recipe with a tokenizer that is learnt once, and the folder of its tokens, written once."""
    recipe = job.recipe
    kind = recipe.tokenizer.model_dump(mode="json", by_alias=True) if recipe.tokenizer is not None else None
    source = recipe.model.model_dump(mode="json", by_alias=True) if isinstance(recipe.model, FromModel) else None
    try:
        if learns_tokenizer(recipe):
            folder = out / TOKENIZERS / _digest([kind, OBJECTIVES[recipe.objective.name].needs.roles])
            if not folder.is_dir():
                tokenizer = find_tokenizer(recipe, None, watch)
                with replacing(folder) as draft:
                    tokenizer.save(draft)
            recipe = recipe.model_copy(update={"tokenizer": FromFolder.model_validate({"from": str(folder)})})
            tokenizer = Tokenizer.load(folder)
        else:
            tokenizer = find_tokenizer(recipe, None, watch)
        tokens = out / TOKENS / _digest([kind, source, recipe.objective.name])
        training_data(recipe, tokenizer, tokens, watch)
    except ValueError as error:
        raise ValueError(f"variant {job.variant}: {error}") from error
    return recipe, tokens


def _settings(base: Recipe, choices: Sequence[Choice], each: bool, jobs: Sequence[Job]) -> dict[str, Any]:
    """What decides the results, as JSON gives it back. Files are known by name and size."""
    named = [file for part in base.data.parts for file in part.files] + [*(base.data.eval or ())]
    settings = {
        "recipe": base.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"out"}),
        "vary": {choice.key: list(choice.values) for choice in choices},
        "each": each,
        "seeds": list(dict.fromkeys(job.seed for job in jobs)),
        "files": {str(file): file.stat().st_size for file in find_files(list(map(Path, named)))},
    }
    return plain(settings)


def _finished(out: Path, settings: Mapping[str, Any]) -> dict[tuple[str, int], Trained]:
    """The runs that are finished; nothing where there is no comparison yet."""
    runs, others = read_results(out, settings, RUNS, Trained.from_json, "a comparison")
    if others:
        told = "; ".join(f"{name} {json.dumps(before, ensure_ascii=False)}" for name, before, _ in others)
        raise ValueError(f"{out / RESULTS} was made with another {told}: give the same to go on, or another --out")
    return {(run.variant, run.seed): run for run in runs if not run.failed}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
