"""A trained model with fewer heads for keys and values, and on request some training to get used to them.

Knows what follows what and what is told. Leaves pooling to `model/sharing.py` and training to `train.py`: a recipe says
`model: {from: FOLDER, share_heads: {kv_heads: 1}}`, and that is what is put into the one that is given.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from handscroll.model.checkpoint import resolve
from handscroll.model.footprint import kv_bytes, readable
from handscroll.model.sharing import share_heads, shared_config
from handscroll.recipes.events import Event, Finished, Said, step_event
from handscroll.recipes.folders import Changed, load_folder, read_changed, save_folder
from handscroll.recipes.tuning import check_new, tuning
from handscroll.training import Progress


def convert(
    model: str | Path,
    out: str | Path,
    *,
    kv_heads: int,
    pooling: str = "mean",
    tune: str | Path | None = None,
    changes: Sequence[str] = (),
    resume: bool = False,
) -> Iterator[Event]:
    """Writes `model`, a folder or a hub id, with `kv_heads` heads for keys and values to `out`, a new folder.

    `tune` is a training recipe that the model goes through first, changed by `key.sub=value` in `changes`: what it says
    of model and tokenizer gives way to this model and its tokenizer. The run's files go to the recipe's own `out`, from
    where `resume` goes on. Checks at once, works while it is iterated.
    Raises ValueError for a number of heads that doesn't divide the model's, and for an `out` that exists.
    """
    out = Path(out)
    check_new(out)
    configs = read_changed(resolve(model), lambda config: shared_config(config, kv_heads, pooling))
    start = {"from": str(model), "share_heads": {"kv_heads": kv_heads, "pooling": pooling}}
    return _run(str(model), out, pooling, configs, tuning(tune, start, out, changes, resume))


def _run(model: str, out: Path, pooling: str, configs: Changed, steps: Iterator[Progress] | None) -> Iterator[Event]:
    before, after = configs
    window = before.max_positions
    sizes = [kv_bytes(config, window) for config in configs]
    yield Said(
        f"kv heads {before.num_kv_heads} -> {after.num_kv_heads} (pooling {pooling}); keys and values of {window:,} "
        f"tokens in float32 {readable(sizes[0])} -> {readable(sizes[1])}"
    )
    result: dict[str, Any] = {
        "model": model,
        "out": str(out),
        "pooling": pooling,
        "kv_heads": {"before": before.num_kv_heads, "after": after.num_kv_heads},
        "cache_bytes": {"before": sizes[0], "after": sizes[1], "tokens": window},
    }
    if steps is None:
        loaded, tokenizer = load_folder(resolve(model), dtype=None, device="cpu")
        save_folder(share_heads(loaded, after.num_kv_heads, pooling), tokenizer, out)
    else:
        for progress in steps:
            result["steps"], result["loss"] = progress.step, progress.loss
            yield step_event(progress, "tuning")
    yield Finished(result, (f"handscroll eval {shlex.quote(str(out))} --suite perplexity --policies full",))
