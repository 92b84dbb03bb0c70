"""`handscroll train`: any training run that a recipe describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from handscroll.cli.display import console, print_json, showing
from handscroll.recipes.events import Advance, Said, step_event


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
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the last step and where the model is as JSON, and only that, on stdout."),
    ] = False,
) -> None:
    """Run a training recipe and leave a Hugging Face folder.

    A recipe has these sections. A key that isn't known is refused, with the nearest one that is.

    \b
    model      width, layers, heads, kv_heads, head_width, feedforward_width,
               window, qkv_bias, tied, rope_theta; or from: a folder or hub id,
               with stretch: method and to, for a longer window
    tokenizer  vocab_size, han (merged, isolated); or from: a folder or hub id
    data       files: txt, md, jsonl, json, csv, parquet, and folders of them;
               or mix, a list of parts with files and weight; skip_bad
    objective  causal_lm (every next token) or sft (what the assistant says); {name: sft, crossbatch: [1]} with options
    optimizer  name (adamw, muon), learning_rate, ...
    schedule   name (constant, cosine, wsd), warmup in steps, ...
    train      steps or epochs, windows_per_step, micro_batches, window, clip,
               seed, checkpoint_every, keep, activation_checkpointing
    out        the folder of recipe.yaml, log.jsonl, checkpoints and model/

    Examples:

    \b
      handscroll train examples/pretrain.yaml
      handscroll train examples/pretrain.yaml train.steps=1000
      handscroll train examples/pretrain.yaml --resume
    """
    people = console(as_json)
    from handscroll.recipes.reading import read_recipe
    from handscroll.recipes.train import LOG, MODEL
    from handscroll.recipes.train import train as run

    overrides = [*(changes or ()), *(["data.skip_bad=true"] if skip_bad else [])]
    checked = read_recipe(recipe, overrides)
    out = Path(checked.out)
    with showing(people) as display:
        display.say(f"reading {', '.join(file for part in checked.data.parts for file in part.files)}")

        def watch(event: Advance | Said) -> None:
            if isinstance(event, Advance):
                display.advance(event)
            else:
                display.say(event.text)

        for progress in run(checked, resume=resume, watch=watch):
            display.advance(step_event(progress))
    last = json.loads((out / LOG).read_text(encoding="utf-8").splitlines()[-1])
    if as_json:
        print_json({"out": str(out), "model": str(out / MODEL), **last})
        return
    people.print(f"loss {last['loss']:.3f} after {last['steps']:,} steps; the model is in {out / MODEL}")
    people.print(f'\nGo on with:\n  handscroll generate {out / MODEL} "Once upon a time"')
