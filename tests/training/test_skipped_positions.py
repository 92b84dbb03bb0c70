"""Skipped positions: which distances a window meets, and that the model turns by them as `transformers` does."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from handscroll.kernels.likelihood import IGNORE
from handscroll.model import Layout, Transformer
from handscroll.model.attention import PooledOptions, SparseOptions
from handscroll.model.checkpoint import save_model
from handscroll.model.position import AlibiOptions, LearnedOptions, Relative, RelativeOptions
from handscroll.training import SFT, CausalLM, TokenRow
from handscroll.training.objectives import SkippedPositions
from handscroll.training.objectives.skipped_positions import skips

MakeModel = Callable[..., Transformer]
MakeRows = Callable[..., list[TokenRow]]


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("chunks", [2, 3, 5])
def test_positions_rise_and_stay_within_the_length(chunks: int) -> None:
    generator = rng()
    for _ in range(200):
        skips_T = skips(32, 1000, chunks, generator)
        steps = (torch.arange(32) + skips_T).diff()
        assert skips_T[0] == 0
        assert int(skips_T[-1]) <= 1000 - 32
        assert int((steps < 1).sum()) == 0
        assert int((steps > 1).sum()) <= chunks - 1


def test_every_distance_is_met() -> None:
    """Two chunks and many windows: all distances up to the length, the far ones as well as the near ones."""
    generator, met = rng(), set()
    for _ in range(3000):
        positions_T = torch.arange(16) + skips(16, 64, 2, generator)
        met.update((positions_T[:, None] - positions_T).flatten().tolist())
    assert {distance for distance in met if distance >= 0} == set(range(64))


def test_one_token_and_no_room_are_left_as_they_are() -> None:
    assert skips(1, 64, 2, rng()).tolist() == [0]
    assert skips(16, 16, 3, rng()).tolist() == [0] * 16


@pytest.mark.parametrize("packed", [False, True])
def test_only_positions_change(packed: bool, make_rows: MakeRows) -> None:
    rows = make_rows(8, 8, 8, 8, masked=True)
    windows = [rows[:2], rows[2:]] if packed else [rows[:1], rows[1:2]]
    plain = SFT().make_batch(windows, rng())
    batch = SkippedPositions(SFT(), 500).make_batch(windows, rng())
    assert torch.equal(batch.tokens_BT, plain.tokens_BT)
    assert torch.equal(batch.targets_BT, plain.targets_BT)
    assert torch.equal(batch.layout.index_BT, plain.layout.index_BT)
    moved_BT = (batch.layout.positions_BTP - plain.layout.positions_BTP)[..., 0]
    assert bool((moved_BT.diff(dim=1) >= 0).all())
    assert int(batch.layout.positions_BTP.max()) < 500
    assert int(moved_BT.max()) > 0


def test_loss_is_that_of_transformers_at_the_same_positions(
    make_model: MakeModel, make_rows: MakeRows, tmp_path: Path
) -> None:
    model = make_model()
    save_model(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    objective = SkippedPositions(CausalLM(), 3000)
    batch = objective.make_batch([[row] for row in make_rows(24, 24)], rng())
    term = objective.loss({"model": model}, batch).terms["likelihood"]
    logits = theirs(input_ids=batch.tokens_BT, position_ids=batch.layout.positions_BTP[..., 0]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(term.sum, expected, rtol=1e-5, atol=0)


def test_mistakes(make_rows: MakeRows) -> None:
    with pytest.raises(ValueError, match="chunks=1: positions are skipped between chunks"):
        SkippedPositions(SFT(), 64, chunks=1)
    with pytest.raises(ValueError, match="a window of 24 tokens can't be spread over 20 positions"):
        SkippedPositions(CausalLM(), 20).make_batch([make_rows(24)], rng())


@pytest.mark.parametrize(
    "slots",
    [
        {"position": AlibiOptions()},
        {"position": RelativeOptions()},
        {"position": LearnedOptions()},
        {"position": AlibiOptions(), "attention": SparseOptions(window=4)},
        {"attention": PooledOptions(window=4, stride=4)},
    ],
    ids=str,
)
def test_each_window_stands_where_it_was_moved(slots: Mapping[str, Any], make_model: MakeModel) -> None:
    """Full windows side by side are what each is alone, though nothing but positions tells them apart."""
    model = make_model(**slots, max_positions=64)
    if isinstance(model.position, Relative):
        for parameter in model.position.parameters():
            torch.nn.init.normal_(parameter, 0, 0.5, generator=rng())
    batch = SkippedPositions(CausalLM(), 64).make_batch([[TokenRow(range(16))]] * 2, rng())
    positions_BTP = batch.layout.positions_BTP
    assert batch.layout.is_uniform and not torch.equal(positions_BTP[0], positions_BTP[1])
    together = model.hidden(batch.tokens_BT, batch.layout).last_BTE
    for row in range(2):
        layout = replace(Layout.rows([16], totals=[64]), positions_BTP=positions_BTP[row : row + 1])
        alone = model.hidden(batch.tokens_BT[row : row + 1], layout).last_BTE
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-5, rtol=0)
