"""GLM's positions in two axes: the paper's figure, the released models' arithmetic, and who may look at them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from handscroll.kvcache import make_policy
from handscroll.model import Layout, ModelConfig, Transformer
from handscroll.model.position import AlibiOptions, Learned2dOptions, LearnedOptions, Rope2dOptions, make_position
from handscroll.training.objectives.blanks import BlankTokens, Corrupted, collate_blanks, corrupt


def blanks(tokens: int, *spans: tuple[int, int]) -> Corrupted:
    """A text of so many tokens without these spans, which follow it in this order."""
    order = np.argsort(np.argsort([start for start, _ in spans]))
    return corrupt(np.arange(tokens), np.array(sorted(spans)), order, BlankTokens(47, 48, 49))


def layout_of(*rows: Corrupted) -> Layout:
    """A row each."""
    layout, lengths = collate_blanks([[row] for row in rows]).layout, tuple(len(row.tokens_T) for row in rows)
    return dataclasses.replace(layout, document_BT=None, starts=(0,) * len(rows), lengths=lengths)


CONFIG = ModelConfig(50, 32, 2, 4, 2, 8, 40, max_positions=16, mask="prefix")
# x1 x2 [M] x4 [M], then [S] x5 x6 for the second mask and [S] x3 for the first.
FIGURE = blanks(6, (4, 6), (2, 3))
SHORT = blanks(3, (1, 2))
TOKENS_BT = torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(0))


def test_positions_are_the_figures() -> None:
    """Figure 2 of the paper, whose first place is 1."""
    layout = layout_of(FIGURE, SHORT)
    assert (layout.positions_BTP[0, :, 0] + 1).tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 3, 3]
    assert layout.positions_BTP[0, :, 1].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 1, 2]
    assert layout.positions_BTP[1, :5].tolist() == [[0, 0], [1, 0], [2, 0], [1, 1], [1, 2]]
    assert layout.index_BT[1].tolist() == [0, 1, 2, 3, 4, -1, -1, -1, -1, -1]
    assert layout.lengths == (10, 5)


def test_who_sees_whom_is_the_figures() -> None:
    """Part A sees itself, part B all of part A and what of part B came before."""
    layout = layout_of(FIGURE, SHORT)
    mask = layout.mask(kind="prefix")
    assert mask is not None
    for query in range(10):
        assert mask[0, 0, query].tolist() == [key < 5 or key <= query for key in range(10)]
    for query in range(5):
        assert mask[1, 0, query].tolist() == [key < 3 or key <= query for key in range(5)] + [False] * 5


def test_learned_tables_are_added() -> None:
    model = Transformer(dataclasses.replace(CONFIG, position=Learned2dOptions()))
    layout = layout_of(FIGURE, SHORT)
    tables = model.embedding.positions
    text_VE, span_VE = tables.text.weight, tables.span.weight
    assert text_VE.shape == span_VE.shape == (16, 32)
    expected = torch.stack(
        [
            torch.stack(
                [
                    model.embedding.weight[token] + text_VE[a] + span_VE[b]
                    for token, (a, b) in zip(row, places, strict=True)
                ]
            )
            for row, places in zip(TOKENS_BT.tolist(), layout.positions_BTP.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(model.embedding.embed(TOKENS_BT, layout)[0], expected)
    # A row as long as two windows has places for all that are in it.
    long = layout_of(blanks(26, (3, 11), (16, 24)))
    assert model(TOKENS_BT.repeat(1, 3)[:1], long).isfinite().all()
    with pytest.raises(ValueError, match="position 16: this model has learnt vectors for its first 16 positions only"):
        model(TOKENS_BT.repeat(1, 3)[:1, :21], layout_of(blanks(19, (3, 18))))


def by_chatglm(x_BHTD: Tensor, positions_BTP: Tensor, theta: float) -> Tensor:
    """The first half of a head turned by the first axis, the second by the second; halves of a half are paired."""
    out, quarter = x_BHTD.clone(), x_BHTD.shape[-1] // 4
    for axis in range(2):
        for pair in range(quarter):
            first = axis * 2 * quarter + pair
            second = first + quarter
            angle = positions_BTP[:, None, :, axis] * theta ** (-2 * pair / (2 * quarter))
            out[..., first] = x_BHTD[..., first] * angle.cos() - x_BHTD[..., second] * angle.sin()
            out[..., second] = x_BHTD[..., second] * angle.cos() + x_BHTD[..., first] * angle.sin()
    return out


def test_halves_turn_by_their_axes() -> None:
    position = make_position(dataclasses.replace(CONFIG, position=Rope2dOptions(theta=500.0), head_width=12))
    layout = layout_of(FIGURE, SHORT)
    x_BHTD = torch.randn(2, 3, 10, 12, generator=torch.Generator().manual_seed(1))
    turned = position.rotate(x_BHTD, position.rotation_in_plane(layout.positions_BTP))
    torch.testing.assert_close(turned, by_chatglm(x_BHTD, layout.positions_BTP, 500.0), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="head_width=6: positions in two axes turn pairs in both halves"):
        dataclasses.replace(CONFIG, position=Rope2dOptions(), head_width=6)


@pytest.mark.parametrize("options", [Learned2dOptions(), Rope2dOptions()], ids=str)
def test_a_span_is_read_in_its_place_whatever_came_between(options: Learned2dOptions | Rope2dOptions) -> None:
    """Without other spans to look at, a row says the same whatever stands beside it, and each axis matters."""
    model = Transformer(dataclasses.replace(CONFIG, position=options))
    layout = layout_of(FIGURE, SHORT)
    both = model(TOKENS_BT, layout)
    alone = model(TOKENS_BT[1:, :5], layout_of(SHORT))
    torch.testing.assert_close(both[1, :5], alone[0], atol=1e-5, rtol=0)
    # Both axes matter.
    for axis in range(2):
        moved = layout.positions_BTP.clone()
        moved[0, 5:, axis] += 1
        changed = model(TOKENS_BT, dataclasses.replace(layout, positions_BTP=moved))
        assert (changed[0, 9] - both[0, 9]).abs().max() > 1e-4
        torch.testing.assert_close(changed[0, :5], both[0, :5], atol=1e-5, rtol=0)
    # One axis is a text without spans.
    rows = Layout.rows([10, 10])
    plane = torch.stack((rows.positions_BTP[..., 0], torch.zeros(2, 10, dtype=torch.long)), dim=-1)
    torch.testing.assert_close(model(TOKENS_BT, rows), model(TOKENS_BT, dataclasses.replace(rows, positions_BTP=plane)))


@pytest.mark.parametrize("options", [Learned2dOptions(), Rope2dOptions()], ids=str)
@pytest.mark.parametrize(
    "policy", ["full", "sliding_window", {"policy": "segment_recurrence", "segment": 16}, "offloaded"]
)
def test_a_cache_keeps_both_axes(options: Learned2dOptions | Rope2dOptions, policy: str | dict[str, object]) -> None:
    model = Transformer(dataclasses.replace(CONFIG, position=options, mask="causal"))
    layout = layout_of(FIGURE, FIGURE)
    cache = make_policy(policy).start(model.config, model.position, 2)
    logits = []
    for first, last in ((0, 6), (6, 7), (7, 10)):
        span = slice(first, last)
        piece = dataclasses.replace(layout.part(span), starts=(first,) * 2, lengths=(last - first,) * 2)
        logits.append(model(TOKENS_BT[:, span], piece, cache))
    torch.testing.assert_close(torch.cat(logits, dim=1), model(TOKENS_BT, layout), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        (Rope2dOptions(), "attention_sinks"),
        (Rope2dOptions(), "block_memory"),
        (LearnedOptions(), "heavy_hitters"),
        (AlibiOptions(), "full"),
    ],
    ids=str,
)
def test_a_cache_that_gives_places_of_its_own_is_refused(options: object, policy: str) -> None:
    model = Transformer(dataclasses.replace(CONFIG, position=options, mask="causal", max_positions=128))
    cache = make_policy(policy).start(model.config, model.position, 1)
    with pytest.raises(ValueError, match="the layout has positions in several axes: use full"):
        model(TOKENS_BT[:1], layout_of(FIGURE), cache)
