"""Attention over pieces equals attention over all keys at once."""

import pytest
import torch

from handscroll.kernels import piecewise
from handscroll.kernels.attention import attention
from handscroll.kernels.piecewise import Piece, attention_over


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("length", [1, 9])
@pytest.mark.parametrize("scores", [1 << 22, 100])
def test_equals_all_keys_at_once(
    heads: int, kv_heads: int, length: int, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piecewise, "SCORES", scores)
    generator = torch.Generator().manual_seed(heads + kv_heads + length)
    query = torch.randn(2, heads, length, 16, generator=generator) * 3
    key, value = (torch.randn(2, kv_heads, 50, 16, generator=generator) for _ in range(2))
    mask = torch.rand(2, 1, length, 50, generator=generator) < 0.5
    # The first query sees nothing of the first piece, all see something of the second, nobody anything of the last.
    mask[:, :, 0, :20] = False
    mask[..., 21] = True
    mask[..., 40:] = False
    spans = [slice(0, 20), slice(20, 37), slice(37, 40), slice(40, 50)]
    pieces = [Piece(key[:, :, span], value[:, :, span], mask[..., span]) for span in spans]
    expected = attention(query, key, value, mask, False)
    torch.testing.assert_close(attention_over(query, pieces), expected, atol=2e-6, rtol=1e-5)
    biases = torch.where(mask, 0.25, float("-inf"))
    additive = [Piece(key[:, :, span], value[:, :, span], biases[..., span]) for span in spans]
    torch.testing.assert_close(attention_over(query, additive), expected, atol=2e-6, rtol=1e-5)
    unmasked = [Piece(key[:, :, span], value[:, :, span], None) for span in spans]
    expected = attention(query, key, value, None, False)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(attention_over(query, unmasked), expected, atol=2e-6, rtol=1e-5)


def test_who_sees_nothing_gets_zeros() -> None:
    piece = Piece(torch.randn(1, 1, 5, 8), torch.randn(1, 1, 5, 8), torch.zeros(1, 1, 3, 5, dtype=torch.bool))
    assert torch.equal(attention_over(torch.randn(1, 2, 3, 8), [piece]), torch.zeros(1, 2, 3, 8))


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("fused", [True, False])
def test_pieces_as_new_as_the_queries_need_no_mask(heads: int, kv_heads: int, fused: bool) -> None:
    generator = torch.Generator().manual_seed(heads + kv_heads)
    length, stored = 9, 30
    query = torch.randn(2, heads, length, 16, generator=generator) * 3
    key, value = (torch.randn(2, kv_heads, stored, 16, generator=generator) for _ in range(2))
    past = stored - length
    spans = [(slice(0, past), None), (slice(past, past + 4), 0), (slice(past + 4, stored), 4)]
    pieces = [Piece(key[:, :, span], value[:, :, span], None, first) for span, first in spans]
    mask = torch.ones(length, stored, dtype=torch.bool).tril(past)
    with torch.set_grad_enabled(not fused):
        assert piecewise.goes_fused(query) == fused
        found = attention_over(query, pieces)
    torch.testing.assert_close(found, attention(query, key, value, mask, False), atol=2e-6, rtol=1e-5)
