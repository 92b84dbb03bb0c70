"""What a recipe may ask of a run besides: evaluation, dropout, TensorBoard, a dry run, a sweep over learning rates."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handscroll.kernels.flash_attention import flash_attention as flash
from handscroll.kvcache import make_policy
from handscroll.model.attention import attention_kind
from handscroll.model.checkpoint import load_model
from handscroll.model.norm import NORMS
from handscroll.recipes.dry_run import dry_run
from handscroll.recipes.events import Finished
from handscroll.recipes.find_lr import STEEPEST, TENTH, find_lr, smooth, suggest
from handscroll.recipes.folders import load_folder
from handscroll.recipes.held_out import hold_out
from handscroll.recipes.prepare import prepare
from handscroll.recipes.reading import read_recipe
from handscroll.recipes.train import train
from handscroll.training import TokenList, TokenRow, TokenRows, checkpoint
from handscroll.training.log import read_log


def finished(events: Any) -> dict[str, Any]:
    [*_, last] = events
    assert isinstance(last, Finished)
    return last.result


def shown(rows: TokenRows) -> list[list[int]]:
    return [list(rows.part(row, 0, int(length)).ids) for row, length in enumerate(rows.lengths_N)]


@pytest.mark.parametrize(
    "changes",
    [*(f"norm={name}" for name in NORMS), "norm=batch feedforward_norm=batch feedforward=gelu norm_placement=sandwich"],
)
def test_every_norm_is_trained_evaluated_and_saved(changes: str, recipe: dict[str, Any]) -> None:
    recipe["data"]["held_out"], recipe["train"]["steps"] = 0.2, 3
    progress = [*train(recipe, overrides=[f"model.{change}" for change in changes.split()])]
    assert progress[-1].evaluation is not None
    model = load_model(Path(recipe["out"]) / "model")
    steps = [buffer for name, buffer in model.named_buffers() if name.endswith("steps")]
    assert all(buffer.item() == 3 for buffer in steps)
    assert bool(steps) == model.config.has_running_norms


@pytest.mark.parametrize("share", [0.01, 0.3])
@pytest.mark.parametrize("lengths", [[1000], [7, 300, 5, 41, 600, 47]])
def test_a_share_is_held_out_and_the_rest_trained_on(lengths: list[int], share: float) -> None:
    rows = TokenList(TokenRow(range(1000 * number, 1000 * number + n)) for number, n in enumerate(lengths))
    training, held_out = hold_out(rows, share, seed=5)
    assert [part.digest() for part in hold_out(rows, share, seed=5)] == [training.digest(), held_out.digest()]
    assert held_out.lengths_N.sum() == round(share * 1000)
    ids = [token for part in (training, held_out) for row in shown(part) for token in row]
    assert sorted(ids) == [token for row in shown(rows) for token in row]
    for part in (training, held_out):
        assert list(part.learnt_N) == [len(row) - 1 for row in shown(part)]
    # Parts of what is shown are parts of the document.
    assert list(held_out.part(0, 1, 3).ids) == shown(held_out)[0][1:3]
    if len(lengths) > 1 and share > 0.1:
        assert shown(hold_out(rows, share, seed=6).held_out) != shown(held_out)


def test_a_conversation_is_held_out_whole() -> None:
    rows = TokenList([TokenRow([1] * 30, [False, True] * 15), TokenRow([2] * 30, [False, True] * 15)])
    training, held_out = hold_out(rows, 0.1, seed=0)
    assert (list(training.lengths_N), list(held_out.lengths_N), list(held_out.learnt_N)) == ([30], [30], [15])
    one = TokenList([TokenRow([1] * 30, [False, True] * 15)])
    with pytest.raises(ValueError, match=r"data\.held_out=0\.1 of 1 documents of 30 tokens leaves nothing to train on"):
        hold_out(one, 0.1, seed=0)
    with pytest.raises(ValueError, match=r"data\.held_out=0\.01 .* is too little to evaluate on"):
        hold_out(rows, 0.01, seed=0)


def test_the_best_model_is_saved(recipe: dict[str, Any], tmp_path: Path) -> None:
    """What is evaluated on has nothing to do with what is learnt at a rate far too high."""
    other = tmp_path / "other.txt"
    other.write_text("0123456789 " * 40, encoding="utf-8")
    recipe["data"]["eval"] = str(other)
    recipe |= {"evaluation": {"every": 2, "patience": 2}, "optimizer": {"name": "adamw", "learning_rate": 0.05}}
    recipe["train"] |= {"steps": 40, "keep": 1}
    steps = [*train(recipe)]
    assert len(steps) < 40
    out = Path(recipe["out"])
    evaluated = [row["evaluation"] for row in read_log(out) if "evaluation" in row]
    best = min(evaluated, key=lambda row: row["loss"])
    assert best["step"] < len(steps)
    saved = load_folder(out / "model").model
    assert checkpoint.load_best(out, {"model": (again := load_model(out / "model"))}) == best["step"]
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), again.parameters(), strict=True))


def test_dropout_reaches_the_model_and_its_config(recipe: dict[str, Any], tmp_path: Path) -> None:
    plain = [progress.loss for progress in train({**recipe, "out": str(tmp_path / "plain")})]
    recipe["train"]["dropout"] = {"attention": 0.2, "residual": 0.1}
    whole = [progress.loss for progress in train({**recipe, "out": str(tmp_path / "whole")})]
    assert whole != plain
    assert load_folder(tmp_path / "whole" / "model").model.config.attention_dropout == 0.2
    for progress in train(recipe):
        if progress.step == 7:
            break
    assert [progress.loss for progress in train(recipe, resume=True)] == whole[5:]
    # A model that is trained further keeps its own, unless the recipe says otherwise.
    further = {**recipe, "model": {"from": str(tmp_path / "whole" / "model")}, "out": str(tmp_path / "further")}
    del further["tokenizer"]
    config = prepare(read_recipe(further, ["train.dropout={embedding: 0.3}"])).model.config
    assert (config.attention_dropout, config.residual_dropout, config.embedding_dropout) == (0.2, 0.0, 0.3)


@pytest.mark.parametrize("kind", ["sparse", "linear", "pooled"])
def test_a_recipe_names_the_attention(kind: str, recipe: dict[str, Any]) -> None:
    """Trained, saved, and read through a cache as without one."""
    recipe["model"]["attention"] = {"kind": kind} | ({} if kind == "linear" else {"window": 5})
    recipe["train"] |= {"steps": 2}
    assert len([*train(recipe)]) == 2
    model = load_model(Path(recipe["out"]) / "model")
    assert attention_kind(model.config) == kind
    tokens_BT = torch.arange(3, 40)[None] % model.config.vocab_size
    cache = make_policy("full").start(model.config, model.position, 1)
    torch.testing.assert_close(model(tokens_BT, cache=cache), model(tokens_BT), atol=1e-4, rtol=0)


def test_tensorboard_has_the_log(recipe: dict[str, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe["train"] |= {"tensorboard": True, "steps": 8}
    recipe["data"]["held_out"] = 0.1
    recipe["evaluation"] = {"every": 3}
    for progress in train(recipe):
        if progress.step == 6:
            break
    for _ in train(recipe, resume=True):
        pass
    out = Path(recipe["out"])
    found = EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    log = read_log(out)
    for tag, key in (("loss/training", "loss"), ("learning_rate", "learning_rate"), ("gradient_norm", "grad_norm")):
        events = found.Scalars(tag)
        assert [event.step for event in events] == [*range(1, 9)]
        assert [event.value for event in events] == pytest.approx([row[key] for row in log], rel=1e-6)
    assert [event.step for event in found.Scalars("loss/evaluation")] == [3, 6, 8]


def test_float16_on_a_cpu_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="precision=float16 needs a GPU"):
        train(recipe, overrides=["train.precision=float16", "train.device=cpu"])
    assert not Path(recipe["out"]).exists()


def test_a_dry_run_says_what_the_run_then_does_and_writes_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["data"]["held_out"] = 0.1
    recipe["evaluation"] = {"every": 5}
    before = sorted(tmp_path.rglob("*"))
    result = finished(dry_run(read_recipe(recipe)))
    assert sorted(tmp_path.rglob("*")) == before
    assert (result["steps"], result["tokens_per_step"], result["tokens"]) == (12, 4 * 32, 12 * 4 * 32)
    assert result["seconds"] > 0
    assert result["tokens_per_second"] > 0
    unmeasured = finished(dry_run(read_recipe(recipe), measure=False))
    assert unmeasured == {**result, "seconds": None, "tokens_per_second": None}
    steps = [*train(recipe)]
    assert 0.8 * result["tokens"] < steps[-1].tokens <= result["tokens"]
    assert result["evaluations"] == sum("evaluation" in row for row in read_log(Path(recipe["out"])))
    model = load_folder(Path(recipe["out"]) / "model").model
    assert result["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    sizes = [file.stat().st_size for file in Path(recipe["out"]).glob("step-000012/optimizer.safetensors")]
    assert result["memory"]["optimizer"] == pytest.approx(sizes[0], rel=0.1)


def test_a_sweep_leaves_everything_as_it_was(recipe: dict[str, Any]) -> None:
    for _ in train(recipe):
        pass
    out = Path(recipe["out"])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    result = finished(find_lr(read_recipe(recipe), steps=30))
    again = finished(find_lr(read_recipe(recipe), steps=30))
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in out.glob("find-lr*")) == [
        "find-lr-2.json", "find-lr-2.svg", "find-lr.json", "find-lr.svg",
    ]  # fmt: skip
    assert again["losses"] == result["losses"]
    assert json.loads((out / "find-lr.json").read_text())["rates"] == result["rates"]
    # Training begins at the same loss, and a rate that is suggested lies where the loss falls.
    assert result["losses"][0] == pytest.approx(read_log(out)[0]["loss"], rel=1e-6)
    assert result["rates"][0] < result[STEEPEST] < result["rates"][int(np.argmin(result["smoothed"]))]


def test_the_steepest_place_of_a_known_curve_is_found() -> None:
    """A logistic fall in the logarithm of the rate is steepest at its middle; then the loss explodes."""
    rates = np.geomspace(1e-6, 1, 100)
    losses = 5 - 3 / (1 + np.exp(-2 * (np.log(rates) - math.log(1e-3)))) + (rates / 0.3) ** 3
    found = suggest(list(rates), list(losses))
    assert found[STEEPEST] == pytest.approx(1e-3, rel=0.15)
    lowest = rates[np.argmin(losses)]
    assert found[TENTH] == pytest.approx(lowest / 10)
    with pytest.raises(ValueError, match="the loss never fell"):
        suggest(list(rates), list(1 + rates))


def test_smoothing_is_a_weighted_mean_of_the_past() -> None:
    losses = [3.0, 1.0, 4.0, 1.0, 5.0]
    weights = [0.8 ** (4 - place) for place in range(5)]
    assert smooth(losses)[-1] == pytest.approx(np.average(losses, weights=weights))
    assert smooth(losses)[0] == pytest.approx(3.0)


def test_what_computes_attention_is_chosen(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("handscroll.model.memory.flash_attention", lambda *given: asked.append(1) or flash(*given))
    losses = []
    for kernel in ("fused", "flash"):
        recipe["train"] |= {"attention_kernel": kernel, "steps": 3}
        recipe["out"] = f"{recipe['out']}-{kernel}"
        losses.append([step.loss for step in train(recipe)])
        assert bool(asked) == (kernel == "flash")
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    recipe["train"]["dropout"] = {"attention": 0.1}
    with pytest.raises(ValueError, match=r"attention_kernel=flash never has all weights, to drop 0\.1 of them"):
        next(train(recipe))
