"""Collating: layouts, shifted targets, masks and borders; and that a packed document learns as if it were alone."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from handscroll.kernels.likelihood import IGNORE
from handscroll.model import Transformer
from handscroll.text.packing import assemble, pack
from handscroll.training import CausalLM, TokenRow, collate
from handscroll.training.objectives.causal_lm import token_loss


def rows(*lengths: int, seed: int = 0) -> list[TokenRow]:
    rng = np.random.default_rng(seed)
    return [TokenRow(rng.integers(1, 50, length)) for length in lengths]


def test_even_windows_take_the_causal_path() -> None:
    windows = [[row] for row in rows(6, 6)]
    batch = collate(windows, pad_id=0, window=6)
    assert batch.layout.is_uniform
    assert batch.layout.mask() is None
    assert batch.tokens_BT.dtype == batch.targets_BT.dtype == torch.int64
    assert batch.tokens_BT.tolist() == [row.ids.tolist() for (row,) in windows]
    assert batch.targets_BT.tolist() == [[*row.ids[1:].tolist(), IGNORE] for (row,) in windows]
    assert (batch.real_tokens, batch.supervised_tokens) == (12, 10)


def test_packed_windows_restart_positions_and_keep_borders() -> None:
    a, b, c = rows(3, 2, 4)
    batch = collate([[a, b], [c]], pad_id=9, window=7)
    assert batch.tokens_BT.tolist() == [[*a.ids, *b.ids, 9, 9], [*c.ids, 9, 9, 9]]
    assert batch.targets_BT.tolist() == [
        [*a.ids[1:], IGNORE, *b.ids[1:], IGNORE, IGNORE, IGNORE],
        [*c.ids[1:], IGNORE, IGNORE, IGNORE, IGNORE],
    ]
    assert batch.layout.index_BT.tolist() == [[0, 1, 2, 3, 4, -1, -1], [0, 1, 2, 3, -1, -1, -1]]
    assert batch.layout.positions_BTP[..., 0].tolist() == [[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 0, 0, 0]]
    assert batch.layout.document_BT is not None
    assert batch.layout.document_BT.tolist() == [[0, 0, 0, 1, 1, -1, -1], [0, 0, 0, 0, -1, -1, -1]]
    assert (batch.real_tokens, batch.supervised_tokens) == (9, 6)


def test_masks_speak_of_the_token_to_predict() -> None:
    row = TokenRow([5, 6, 7, 8], [True, False, True, True])
    assert collate([[row]], pad_id=0).targets_BT.tolist() == [[IGNORE, 7, 8, IGNORE]]


def test_agrees_with_the_packing_room() -> None:
    documents = rows(9, 4, 3, 12, 5)
    plan = pack([len(row.ids) for row in documents], window=8, seed=2, epoch=0)
    packed = assemble(plan, range(len(plan)), [row.ids for row in documents], pad_id=0)
    windows = [[TokenRow(documents[r].ids[a:b]) for r, a, b in plan.segments(w)] for w in range(len(plan))]
    batch = collate(windows, pad_id=0, window=8)
    assert batch.layout.document_BT is not None
    np.testing.assert_array_equal(batch.tokens_BT, packed.tokens_BT)
    np.testing.assert_array_equal(batch.layout.index_BT, packed.index_BT)
    np.testing.assert_array_equal(batch.layout.positions_BTP[..., 0], packed.positions_BT)
    np.testing.assert_array_equal(batch.layout.document_BT, packed.document_BT)


def gradient(model: Transformer, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_a_packed_document_has_the_loss_and_gradient_of_being_alone(make_model: Callable[..., Transformer]) -> None:
    model, objective, rng = make_model(qkv_bias=True), CausalLM(), torch.Generator()
    documents = rows(7, 3, 5, 9)
    packed = objective.make_batch([documents[:3], documents[3:]], rng)
    together = objective.loss({"model": model}, packed).terms["likelihood"]
    alone = [
        objective.loss({"model": model}, objective.make_batch([[row]], rng)).terms["likelihood"] for row in documents
    ]
    assert together.count == sum(term.count for term in alone)
    torch.testing.assert_close(together.sum, sum(term.sum for term in alone), rtol=1e-6, atol=0)
    for mine, theirs in zip(
        gradient(model, together.sum), gradient(model, sum(term.sum for term in alone)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    # Each document by itself too, by supervising no other.
    for number, row in enumerate(documents):
        masked = [TokenRow(r.ids, [n == number] * len(r.ids)) for n, r in enumerate(documents)]
        batch = collate([masked[:3], masked[3:]], pad_id=0)
        found = token_loss({"model": model}, batch, 8, CausalLM()).terms["likelihood"]
        assert found.count == len(row.ids) - 1
        torch.testing.assert_close(found.sum, alone[number].sum, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("windows", "window", "message"),
    [
        ([], None, "no tokens"),
        ([[]], None, "no tokens"),
        ([[TokenRow([])]], None, "no tokens"),
        ([[TokenRow([1, 2, 3])]], 2, "3 tokens, more than window=2"),
        ([[TokenRow([1, 2, 3], [True])]], None, "3 ids has a mask of 1"),
    ],
)
def test_bad_windows(windows: list[list[TokenRow]], window: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collate(windows, pad_id=0, window=window)


def test_moving_keeps_everything() -> None:
    batch = collate([rows(3, 2)], pad_id=0)
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    tensors = (moved.tokens_BT, moved.targets_BT, moved.layout.index_BT, moved.layout.positions_BTP)
    assert all(tensor.device.type == "meta" for tensor in (*tensors, moved.layout.document_BT))


def test_a_batch_moves_whole() -> None:
    batch = collate([[TokenRow([1, 2, 3])], [TokenRow([4, 5])]], pad_id=0)
    kinds_BT = torch.zeros_like(batch.tokens_BT)
    layout = replace(batch.layout, kinds_BT=kinds_BT, prefix_BT=kinds_BT, ends_BT=kinds_BT > 0)
    moved = replace(batch, layout=layout, labels={"next": kinds_BT}).to("meta")
    parts = (moved.layout.index_BT, moved.layout.kinds_BT, moved.layout.prefix_BT, moved.labels["next"])
    assert all(part is not None and part.device.type == "meta" for part in parts)
    assert moved.layout.ends_BT is layout.ends_BT
