"""A trained model under a longer window: stretched positions, and on request some training at the new length.

Knows what follows what and what is told. Leaves the methods to `model/stretching.py`, training to `train.py`: a recipe
says `model: {from: FOLDER, stretch: {method: yarn, to: 32768}}`, and that is what is put into the one that is given.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from handscroll.model import ModelConfig
from handscroll.model.checkpoint import resolve
from handscroll.model.stretching import stretch, with_config
from handscroll.recipes.events import Event, Finished, Said, step_event
from handscroll.recipes.folders import Changed, allow_length, load_folder, read_changed, save_folder
from handscroll.recipes.tuning import check_new, tuning
from handscroll.training import Progress


def extend(
    model: str | Path,
    out: str | Path,
    *,
    method: str,
    to: int,
    options: Mapping[str, Any] | None = None,
    tune: str | Path | None = None,
    changes: Sequence[str] = (),
    resume: bool = False,
) -> Iterator[Event]:
    """Writes `model`, a folder or a hub id, with a window of `to` tokens to `out`, a new folder.

    `options` are those of the method. `tune` is a training recipe that the stretched model goes through first, changed
    by `key.sub=value` in `changes`: what it says of model and tokenizer gives way to this model and its tokenizer. The
    run's files go to the recipe's own `out`, from where `resume` goes on. Checks at once, works while it is iterated.
    Raises ValueError for what can't be stretched so, and for an `out` that exists.
    """
    out, options = Path(out), dict(options or {})
    check_new(out)
    configs = read_changed(resolve(model), lambda config: stretch(config, method, to, options))
    start = {"from": str(model), "stretch": {"method": method, "to": to, **options}}
    return _run(str(model), out, method, to, configs, tuning(tune, start, out, changes, resume))


def _run(
    model: str, out: Path, method: str, to: int, configs: Changed, steps: Iterator[Progress] | None
) -> Iterator[Event]:
    yield Said(_described(method, to, configs))
    result = {"model": model, "out": str(out), "method": method, "window": configs.before.max_positions, "to": to}
    if steps is None:
        _write(resolve(model), out, to, configs.after)
    else:
        for progress in steps:
            result["steps"], result["loss"] = progress.step, progress.loss
            yield step_event(progress, "tuning")
    yield Finished(
        result, (f"handscroll eval {shlex.quote(str(out))} --suite perplexity --policies full --tokens {to}",)
    )


def _write(folder: Path, out: Path, to: int, config: ModelConfig) -> None:
    model, tokenizer = load_folder(folder, dtype=None, device="cpu")
    allow_length(tokenizer, to)
    save_folder(with_config(model, config), tokenizer, out)


def _described(method: str, to: int, configs: Changed) -> str:
    before, after = configs
    words = (
        f"window {before.max_positions:,} -> {to:,} tokens ({to / before.max_positions:g} times), positions {method}"
    )
    if after.max_positions != to:
        words += f"; config.json keeps {before.max_positions:,}, from where texts are stretched as far as they are long"
    return words
