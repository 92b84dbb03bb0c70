"""One variant of a comparison trained and measured, in this process or in one of its own.

In a process of its own its peak memory says something, and whatever happens to it (a crash, no memory) happens to it
alone. `python -m handscroll.recipes.variant_run` is such a process: it takes a recipe on stdin and answers in lines of
JSON. Leaves to `compare.py` which variants there are.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch

from handscroll.measure.likelihood import bits_per_byte
from handscroll.measure.variants import Point
from handscroll.model.footprint import parameter_count, training_bytes
from handscroll.recipes.prepare import Prepared, prepare
from handscroll.recipes.reading import read_recipe
from handscroll.recipes.schema import Recipe
from handscroll.recipes.train import run_prepared
from handscroll.text import Tokenizer
from handscroll.training import TokenRow
from handscroll.training.batch import Window
from handscroll.training.evaluation import likelihood_loss
from handscroll.training.log import LOG_NAME, best_evaluation, neighbours, read_log

MODULE = "handscroll.recipes.variant_run"
POINTS = 200
# The training loss at the end is the mean over a twentieth of all steps, and over no fewer than so many.
LAST_SHARE, FEWEST_LAST = 20, 5
PROC = Path("/proc/self/status")


class Stepped(NamedTuple):
    """A step of the run is done."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float


class Ended(NamedTuple):
    """The run is over: its figures and its curve, or why it failed."""

    figures: dict[str, float]
    curve: tuple[Point, ...]
    failed: str = ""


Runner = Callable[[Recipe, Path], Iterator[Stepped | Ended]]


def train_here(recipe: Recipe, tokens: Path) -> Iterator[Stepped | Ended]:
    """Trains, or goes on where the run in the recipe's `out` stands; `tokens` is the folder of the corpus's tokens.

    Ends with `Ended`: what goes wrong while training, too little memory included, is a result and no error.
    """
    before, peak = memory("VmRSS"), None
    try:
        prepared = prepare(recipe, None, tokens)
        is_cuda = prepared.model.device.type == "cuda"
        for progress in run_prepared(recipe, prepared, resume=True):
            # Now, because the report that is drawn after the last step takes memory, too.
            peak = torch.cuda.max_memory_allocated() if is_cuda else memory("VmHWM")
            yield Stepped(progress.step, progress.steps, progress.loss, progress.tokens_per_second)
    except (ValueError, MemoryError, RuntimeError) as error:  # torch says RuntimeError where it finds no memory
        yield Ended({}, _curve(recipe), _one_line(str(error)) or type(error).__name__)
        return
    found = figures(recipe, prepared)
    if peak is not None:
        found["peak_bytes"] = peak
        if is_cuda or before is not None:
            found["training_bytes"] = peak - (0 if is_cuda or before is None else before)
    yield Ended(found, _curve(recipe))


def train_apart(recipe: Recipe, tokens: Path) -> Iterator[Stepped | Ended]:
    """The same in a process of its own, which ends with this generator at the latest."""
    request = {"recipe": recipe.model_dump(mode="json", by_alias=True, exclude_none=True), "tokens": str(tokens)}
    ended = False
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request))
            process.stdin.close()
            for line in process.stdout:
                event = _event(json.loads(line))
                ended |= isinstance(event, Ended)
                yield event
            process.wait()
        finally:
            process.kill()
        if not ended:
            yield Ended({}, _curve(recipe), _reason(process.returncode, errors))


def figures(recipe: Recipe, prepared: Prepared) -> dict[str, float]:
    """What a finished run's log and folder say, by the names in `measure/variants.py`."""
    log, config = read_log(Path(recipe.out)), prepared.model.config
    needed = training_bytes(config, 0, optimizer=recipe.optimizer.name)
    last = log[-max(FEWEST_LAST, len(log) // LAST_SHARE) :]
    found: dict[str, float] = {
        "loss": statistics.fmean(map(_likelihood, last)),
        "parameters": parameter_count(config),
        "tokens": log[-1]["tokens"],
        "tokens_per_second": statistics.median(row["tokens_per_second"] for row in log),
        "seconds": log[-1]["seconds"],
        "model_bytes": needed.weights,
        "optimizer_bytes": needed.optimizer,
    }
    # The evaluation of the model that is kept.
    kept = best_evaluation(log)
    if kept is not None and prepared.evaluation is not None:
        found |= {"held_out_loss": kept["loss"], "perplexity": kept["perplexity"]}
        size = predicted(prepared.evaluation.batches, prepared.tokenizer)
        bits = bits_per_byte(kept["loss"] * size.tokens, size.bytes or 0)
        if bits is not None:
            found["bits_per_byte"] = bits
    return found


class Size(NamedTuple):
    """Predicted tokens, and the bytes of text that they stand for; None where the tokens don't give the text back."""

    tokens: int
    bytes: int | None


def predicted(batches: Sequence[Sequence[Window]], tokenizer: Tokenizer) -> Size:
    """Of a character that a window's edge cuts apart, either side has one byte. Control tokens have none."""
    rows = [row for batch in batches for window in batch for row in window]
    tokens = sum(int(_predicted_T(row).sum()) for row in rows)
    # WordPiece makes white space single spaces and has no token for rare characters.
    if "wordpiece" in tokenizer.backend.kind.lower():
        return Size(tokens, None)
    size = 0
    for row in rows:
        ids = np.asarray(row.ids).tolist()
        edges = np.flatnonzero(np.diff(np.concatenate(([False], _predicted_T(row), [False])).astype(np.int8)))
        for start, stop in edges.reshape(-1, 2).tolist():
            # What stands before decides whether a token begins with a space.
            size += _bytes(tokenizer, ids[:stop]) - _bytes(tokenizer, ids[:start])
    return Size(tokens, size)


def _predicted_T(row: TokenRow) -> np.ndarray[Any, np.dtype[np.bool_]]:
    wanted_T = np.ones(len(row.ids), dtype=bool) if row.supervised is None else np.array(row.supervised, dtype=bool)
    wanted_T[:1] = False
    return wanted_T


def _bytes(tokenizer: Tokenizer, ids: list[int]) -> int:
    text = tokenizer.decode(ids, skip_special=True)
    return len(text.replace("\ufffd", "?").encode())


def memory(name: str) -> int | None:
    """Bytes that this process holds (VmRSS) or has held at most (VmHWM); None where the system doesn't say."""
    try:
        lines = PROC.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _curve(recipe: Recipe) -> tuple[Point, ...]:
    """Means over neighbouring steps of as much as was logged."""
    folder = Path(recipe.out)
    log = read_log(folder) if (folder / LOG_NAME).is_file() else []
    return tuple(
        Point(
            statistics.fmean(row["tokens"] for row in group),
            statistics.fmean(row["seconds"] for row in group),
            statistics.fmean(map(_likelihood, group)),
        )
        for group in neighbours(log, POINTS)
    )


def _likelihood(row: Mapping[str, Any]) -> float:
    """A step's loss without smoothing and penalties, which variants may differ in."""
    return likelihood_loss(row["loss"], row["terms"], row["metrics"])


def _event(row: dict[str, Any]) -> Stepped | Ended:
    if "step" in row:
        return Stepped(**row)
    return Ended(row["figures"], tuple(Point(*point) for point in row["curve"]), row["failed"])


def _reason(code: int, errors: IO[bytes]) -> str:
    """Why a process ended without a word."""
    if code < 0:
        name = signal.Signals(-code).name
        also = ", as systems do when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{also}"
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"its process ended with exit code {code}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def main() -> None:
    """A process of one variant: a request on stdin, events on stdout, and nothing else there."""
    answers, sys.stdout = sys.stdout, sys.stderr
    request = json.load(sys.stdin)
    for event in train_here(read_recipe(request["recipe"]), Path(request["tokens"])):
        print(json.dumps(event._asdict()), file=answers, flush=True)


if __name__ == "__main__":
    main()
