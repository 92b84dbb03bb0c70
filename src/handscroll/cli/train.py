"""`handscroll train`: any training run that a recipe describes, or what it would take, or a learning rate for it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handscroll.cli.display import console, duration, follow, print_json, print_next, showing
from handscroll.recipes.events import Advance, Said, step_event

if TYPE_CHECKING:
    from rich.console import Console

    from handscroll.recipes.schema import Recipe


def train(
    recipe: Annotated[
        Path, typer.Argument(help="A YAML file; examples/ has some to begin with.", metavar="RECIPE.yaml")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            help="Single keys of the recipe to change, such as optimizer.learning_rate=0.01.",
            metavar="KEY.SUB=VALUE",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the recipe's out, to the same result.")
    ] = False,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Count and name bad rows of the data and go on; data.skip_bad: true."),
    ] = False,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print steps, tokens, parameters, memory and time, measured over a few steps; write nothing.",
        ),
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Whether --dry-run takes steps to tell the time.")
    ] = True,
    find: Annotated[
        bool,
        typer.Option(
            "--find-lr", help="Try rising learning rates over 100 steps and suggest two; leaves find-lr.json and .svg."
        ),
    ] = False,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Train in this many processes, each with its part of train.micro_batches (or a GPU)."),
    ] = 1,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the last step and where the model is as JSON, and only that, on stdout."),
    ] = False,
) -> None:
    """Run a training recipe and leave a Hugging Face folder, and in report.html how it went.

    A recipe has these sections. A key that isn't known is refused, with the nearest one that is.

    \b
    model      width, layers, heads, kv_heads, head_width, feedforward_width,
               window, tied; mask (causal, prefix, bidirectional), attention,
               position, norm, feedforward, head, experts, ... (docs/models.md);
               or from: a folder or hub id, with stretch: method and to, for
               a longer window, share_heads: kv_heads, for a smaller cache
    tokenizer  vocab_size, kind (bpe, wordpiece), han (merged, isolated, jieba);
               or from: a folder or hub id
    data       files: txt, md, jsonl, json, csv, parquet, and folders of them;
               or mix, a list of parts with files and weight; skip_bad;
               what is evaluated on: eval, files, or held_out, a share
    objective  causal_lm (every next token), sft (what the assistant says),
               prefix_lm, glm, masked_lm, ernie (docs/objectives.md);
               {name: masked_lm, masked: 0.3} with options
    optimizer  name (adamw, muon), learning_rate, ...
    schedule   name (constant, cosine, wsd), warmup in steps, ...
    train      steps or epochs, windows_per_step, micro_batches, window, clip,
               seed, checkpoint_every, keep, activation_checkpointing,
               attention_kernel (fused, flash, naive),
               device (auto, cpu, cuda), precision (float32, bfloat16, float16),
               dropout: attention, residual, embedding; tensorboard
    evaluation every, in steps; patience: evaluations without a better one, then
               training stops. The model of the best evaluation is the one saved
    out        the folder of recipe.yaml, log.jsonl, checkpoints, model/ and
               report.html

    Examples:

    \b
      handscroll train examples/pretrain.yaml
      handscroll train examples/pretrain.yaml train.steps=1000 data.held_out=0.02
      handscroll train examples/pretrain.yaml --resume
      handscroll train examples/pretrain.yaml --dry-run
      handscroll train examples/pretrain.yaml --find-lr
      handscroll train examples/pretrain.yaml train.micro_batches=2 --processes 2
    """
    people = console(as_json)
    from handscroll.recipes.reading import read_recipe

    checked = read_recipe(recipe, [*(changes or ()), *(["data.skip_bad=true"] if skip_bad else [])])
    alone = [("--dry-run", dry), ("--find-lr", find), ("--resume", resume)]
    given = [name for name, is_given in alone if is_given]
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} don't go together: give one of them")
    if not measure and not dry:
        raise ValueError("--no-measure belongs to --dry-run: give both, or neither")
    if processes > 1:
        if dry or find:
            raise ValueError(f"{given[0]} takes one process: leave out --processes")
        if checked.train.micro_batches % processes:
            raise ValueError(
                f"train.micro_batches={checked.train.micro_batches} can't be divided among {processes} processes: give "
                f"a multiple, such as train.micro_batches={processes}"
            )
        _launch(processes)
    if dry:
        _dry_run(checked, people, measure, as_json)
    elif find:
        _find_lr(checked, people, as_json)
    else:
        with _first_only(people):
            _train(checked, people, resume, as_json)


def _train(recipe: Recipe, people: Console, resume: bool, as_json: bool) -> None:
    from handscroll.recipes.train import MODEL, REPORT
    from handscroll.recipes.train import train as run
    from handscroll.training import parallel
    from handscroll.training.log import best_evaluation, evaluations, read_log

    out = Path(recipe.out)
    with showing(people) as display:
        display.say(f"reading {', '.join(file for part in recipe.data.parts for file in part.files)}")
        if recipe.train.dropout.attention:
            display.say(
                "attention dropout: on a CPU PyTorch's attention is used, which holds a window's scores at once"
            )

        def watch(event: Advance | Said) -> None:
            if isinstance(event, Advance):
                display.advance(event)
            else:
                display.say(event.text)

        for progress in run(recipe, resume=resume, watch=watch):
            display.advance(step_event(progress))
    if not parallel.is_first():
        return

    log = read_log(out)
    last = log[-1]
    best = best_evaluation(log)
    if as_json:
        shown = {"out": str(out), "model": str(out / MODEL), "report": str(out / REPORT), **last}
        print_json(shown | ({"best": best} if best is not None else {}))
        return
    early = f" of {last['steps']:,}: evaluations were no better any more" if last["step"] < last["steps"] else ""
    people.print(f"loss {last['loss']:.3f} after {last['step']:,} steps{early}; the model is in {out / MODEL}")
    if best is not None:
        people.print(
            f"It is that of step {best['step']:,}, the best of {len(evaluations(log)):,} evaluations: "
            f"loss {best['loss']:.3f}, perplexity {best['perplexity']:,.2f}"
            + "".join(f", {name} {value:.3f}" for name, value in best.get("metrics", {}).items())
        )
    people.print(f"The report is {out / REPORT}: one page, open it in a browser.")
    commands, model = [], shlex.quote(str(out / MODEL))
    if recipe.objective.name in ("masked_lm", "ernie", "glm"):
        commands.append(f'handscroll fill {model} "Once upon a {mask_of(out / MODEL)}."')
    if recipe.objective.name not in ("masked_lm", "ernie"):
        commands.append(f'handscroll generate {model} "Once upon a time"')
    print_next(people, commands)


def mask_of(model: Path) -> str:
    """How the tokenizer of a model that was trained on masks or blanks writes one."""
    from handscroll.text import Tokenizer

    tokenizer = Tokenizer.load(model)
    mask = tokenizer.role_id("mask")
    assert mask is not None
    return tokenizer.decode([mask])


def _dry_run(recipe: Recipe, people: Console, measure: bool, as_json: bool) -> None:
    from handscroll.recipes.dry_run import dry_run

    finished = follow(people, dry_run(recipe, measure=measure))
    assert finished is not None, "a dry run ends with its result"
    if as_json:
        print_json(finished.result)
        return
    _print_outlook(people, finished.result)


def _print_outlook(people: Console, result: dict[str, Any]) -> None:
    from handscroll.model.footprint import readable

    parts = ", ".join(f"{name} {readable(size)}" for name, size in result["memory"].items() if size and name != "total")
    people.print(
        f"steps       {result['steps']:,} of {result['tokens_per_step']:,} tokens: {result['tokens']:,} tokens"
    )
    if result["evaluations"]:
        people.print(f"evaluations {result['evaluations']:,}")
    people.print(f"parameters  {result['parameters']:,}")
    people.print(f"memory      {readable(result['memory']['total'])}: {parts}")
    people.print(f"where       {result['device']}, in {result['precision']}")
    if result["seconds"] is not None:
        speed = f"{result['tokens_per_second']:,.0f} tokens/s, measured here"
        people.print(f"time        about {duration(result['seconds'])} at {speed}")


def _find_lr(recipe: Recipe, people: Console, as_json: bool) -> None:
    from handscroll.recipes.find_lr import STEEPEST, TENTH, find_lr

    finished = follow(people, find_lr(recipe))
    assert finished is not None, "a sweep ends with its result"
    if as_json:
        print_json(finished.result)
        return
    steepest, tenth = (finished.result[name] for name in (STEEPEST, TENTH))
    people.print(
        f"The loss falls fastest at a learning rate of {steepest:.2g}; a tenth of where it is lowest is {tenth:.2g}."
    )
    people.print(f"The sweep is in {' and '.join(finished.result['files'])}; the recipe's own rate is as it was.")
    people.print(f"\nGo on with:\n  optimizer.learning_rate={steepest:.2g} behind the recipe")


@contextmanager
def _first_only(people: Console) -> Iterator[None]:
    """Joins the processes that `torchrun` started, if it did; all but the first are silent."""
    from handscroll.training import parallel

    with parallel.joined():
        people.quiet = not parallel.is_first()
        yield


def _launch(processes: int) -> None:
    """The same command in several processes, and then nothing more in this one."""
    from handscroll.cli.processes import launch

    words = iter(sys.argv[1:])
    arguments = []
    for word in words:
        if word == "--processes":
            next(words)
        elif not word.startswith("--processes="):
            arguments.append(word)
    raise typer.Exit(launch(processes, arguments))
