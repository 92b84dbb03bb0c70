"""The training that a changed model may go through before it is written, by a recipe that says only how.

For verbs that make a model of another one (`extend.py`, `convert.py`): what the recipe says of model and tokenizer
gives way to the changed model and its tokenizer. Leaves training to `train.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from handscroll.recipes.output import check_writable
from handscroll.recipes.reading import read_recipe
from handscroll.recipes.train import train
from handscroll.training import Progress


def check_new(out: Path) -> None:
    """ValueError unless `out` is a folder that can be made, or an empty one."""
    check_writable(out)
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} exists already: give the name of a new folder")


def tuning(
    tune: str | Path | None, model: Mapping[str, Any], out: Path, changes: Sequence[str], resume: bool
) -> Iterator[Progress] | None:
    """Trains `model`, a recipe's section, by the recipe `tune` and leaves it in `out`; None: there is no recipe.

    Checks at once, trains while it is iterated. Raises ValueError for `changes` of no recipe, and `resume` of none.
    """
    if tune is None:
        if changes or resume:
            what = changes[0] if changes else "resume"
            raise ValueError(f"{what} belongs to a training run: give its recipe as tune, or leave it out")
        return None
    recipe = read_recipe(tune, [*changes, f"model={json.dumps(model, ensure_ascii=False)}", "tokenizer=null"])
    if Path(recipe.out).absolute() == out.absolute():
        raise ValueError(f"the recipe's out is {out}, too: give one folder for the run, another for the model")
    return train(recipe, resume=resume, model_folder=out)
