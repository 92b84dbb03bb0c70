"""Layout: where the tokens of a batch stand, and who sees whom, against a loop that asks the definition."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from handscroll.model import Layout, ModelConfig, Transformer
from handscroll.model.layout import visible


def test_rows() -> None:
    layout = Layout.rows([3, 1, 0], [10, 0, 5], size=4)
    assert layout.index_BT.tolist() == [[10, 11, 12, -1], [0, -1, -1, -1], [-1, -1, -1, -1]]
    assert layout.positions_BTP.tolist() == [[[10], [11], [12], [0]], [[0], [0], [0], [0]], [[0], [0], [0], [0]]]
    assert layout.starts == (10, 0, 5)
    assert layout.lengths == (3, 1, 0)
    assert not layout.is_uniform


@pytest.mark.parametrize(
    ("lengths", "starts", "size", "uniform"),
    [
        ([4, 4], None, None, True),
        ([4, 4], [7, 7], None, True),
        ([4], [0], 4, True),
        ([4, 4], [7, 8], None, False),
        ([4, 3], None, None, False),
        ([4, 4], None, 5, False),
    ],
)
def test_uniform_rows_need_no_mask(
    lengths: list[int], starts: list[int] | None, size: int | None, uniform: bool
) -> None:
    layout = Layout.rows(lengths, starts, size=size)
    assert layout.is_uniform == uniform
    assert (layout.mask() is None) == uniform
    for row, length in enumerate(lengths):
        start = starts[row] if starts else 0
        assert layout.index_BT[row, :length].tolist() == list(range(start, start + length))
        assert (layout.index_BT[row, length:] == -1).all()


def test_visible_is_its_definition() -> None:
    query_BT = torch.tensor([[3, 5, -1], [0, -1, 9]])
    key_BS = torch.tensor([[0, 3, 4, 5, -1], [-1, 9, 2, 10, 0]])
    expected = [
        [[query < 0 or (0 <= key <= query) for key in keys] for query in queries]
        for queries, keys in zip(query_BT.tolist(), key_BS.tolist(), strict=True)
    ]
    assert visible(query_BT, key_BS).tolist() == expected


def test_packed_mask_is_its_definition() -> None:
    index, document = [0, 1, 2, 3, 4, -1], [0, 0, 1, 1, 1, -1]
    layout = Layout.packed(torch.tensor([index]), torch.tensor([[0, 1, 0, 1, 2, 0]]), torch.tensor([document]))
    mask_B1TS = layout.mask()
    assert mask_B1TS is not None
    assert mask_B1TS.shape == (1, 1, 6, 6)
    for t in range(5):
        for s in range(6):
            expected = 0 <= index[s] <= index[t] and document[s] == document[t]
            assert mask_B1TS[0, 0, t, s] == expected, (t, s)
    # Padding sees something, whatever it is: a softmax over nothing would be NaN.
    assert mask_B1TS[0, 0, 5].any()
    assert layout.positions_BTP.shape == (1, 6, 1)
    assert layout.starts is layout.lengths is None


def test_layout_is_a_value() -> None:
    layout = Layout.rows([2])
    with pytest.raises(dataclasses.FrozenInstanceError):
        layout.starts = (1,)  # type: ignore[misc]


def test_text_lengths_of_rows() -> None:
    layout = Layout.rows([3, 1, 0], [10, 0, 5], size=4)
    assert layout.text_lengths().tolist() == [[13], [1], [5]]
    told = Layout.rows([3, 1, 0], [10, 0, 5], totals=[20, 1, 4])
    assert told.text_lengths().tolist() == [[20], [1], [5]]
    wanted_BQ = torch.tensor([[0, 1], [0, 0], [0, 2]])
    assert told.text_lengths(told.pick(wanted_BQ)).tolist() == [[20], [1], [5]]


def test_text_lengths_of_documents() -> None:
    """Each token stands in its own document; padding in none, which must only be finite."""
    index_BT = torch.tensor([[0, 1, 2, 3, 4, -1], [0, 1, 2, 3, 4, 5]])
    positions_BT = torch.tensor([[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 0]])
    document_BT = torch.tensor([[0, 0, 7, 7, 7, -1], [3, 3, 3, 3, 3, 4]])
    layout = Layout.packed(index_BT, positions_BT, document_BT)
    assert layout.text_lengths().tolist() == [[2, 2, 3, 3, 3, 1], [5, 5, 5, 5, 5, 1]]
    assert layout.text_lengths(layout.pick(torch.tensor([[4, 0], [5, 1]]))).tolist() == [[3, 2], [1, 5]]
    whole = Layout(index_BT[1:], index_BT[1:, :, None])
    assert whole.text_lengths().tolist() == [[6] * 6]


def test_of_no_places_there_are_no_hidden_states() -> None:
    """Where nothing of a batch is supervised, nothing is told."""
    model = Transformer(ModelConfig(97, 32, 2, 4, 2, 8, 32, 64), seed=0)
    told = model.hidden(torch.zeros(2, 5, dtype=torch.int64), wanted_BQ=torch.zeros(2, 0, dtype=torch.int64))
    assert told.last_BTE.shape == (2, 0, 32)
