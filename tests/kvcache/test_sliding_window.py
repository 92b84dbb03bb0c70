"""`sliding_window` sees exactly its window, and forgets what it says it forgets."""

import pytest
import torch

from handscroll.kernels.attention import additive, attention_with_weights
from handscroll.kvcache import SlidingWindow
from handscroll.model import DirectMemory, Layout, Transformer
from handscroll.model.memory import Attended


class WindowReference(DirectMemory):
    """The slow reference: a dense mask of the last `seen` tokens."""

    seen = 20

    def attend(self, query_BHTD, key_BKTD, value_BKTD, layout, asking=None):  # type: ignore[no-untyped-def]
        query_BHTD = self.position.rotate(query_BHTD, self.rotation)
        key_BKTD = self.position.rotate(key_BKTD, self.rotation)
        index_T = torch.arange(query_BHTD.shape[2])
        distance_TT = index_T[:, None] - index_T
        mask_TT = (distance_TT >= 0) & (distance_TT < self.seen)
        if self.position.adds_bias:
            mask_TT = additive(self.position.bias(index_T, index_T), mask_TT, False)
        return Attended(*attention_with_weights(query_BHTD, key_BKTD, value_BKTD, mask_TT, False))


@pytest.mark.parametrize("chunks", [[200], [30, 1, 100, 69], [1] * 200])
def test_equals_a_dense_mask(model: Transformer, monkeypatch: pytest.MonkeyPatch, chunks: list[int]) -> None:
    tokens_1T = torch.randint(97, (1, 200), generator=torch.Generator().manual_seed(0))
    cache = SlidingWindow(window=20).start(model.config, model.position, 1)
    logits_TV = torch.cat([model(piece, cache=cache) for piece in tokens_1T.split(chunks, dim=1)], dim=1)
    monkeypatch.setattr("handscroll.model.attention.DirectMemory", WindowReference)
    torch.testing.assert_close(logits_TV, model(tokens_1T), atol=2e-5, rtol=0)


def test_forgets_what_left_the_window(model: Transformer) -> None:
    """With two layers, a token reaches at most 2 * (window - 1) tokens ahead; past that its value changes nothing."""
    tokens_1T = torch.randint(97, (1, 100), generator=torch.Generator().manual_seed(0))
    other_1T = tokens_1T.clone()
    other_1T[0, :61] = (other_1T[0, :61] + 1) % 97
    outputs = []
    for text_1T in (tokens_1T, other_1T):
        cache = SlidingWindow(window=20).start(model.config, model.position, 1)
        outputs.append(model(text_1T, cache=cache)[:, 99])
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-6, rtol=0)


def test_memory_is_bounded(model: Transformer) -> None:
    cache = SlidingWindow(window=20).start(model.config, model.position, 1)
    sizes = set()
    for step in range(60):
        model.hidden(torch.full((1, 25), step), cache=cache)
        sizes.add(cache.bytes().device)
    assert len(sizes) <= 2


def test_truncation_past_what_is_held_is_refused(model: Transformer) -> None:
    cache = SlidingWindow(window=20).start(model.config, model.position, 1)
    for step in range(10):
        model.hidden(torch.full((1, 25), step), cache=cache)
    with pytest.raises(ValueError, match="a sliding window has dropped all before"):
        cache.truncate([30])
    cache.truncate([249])
    assert cache.lengths == (249,)


def test_default_window_is_the_trained_one(model: Transformer) -> None:
    cache = SlidingWindow().start(model.config, model.position, 1)
    assert cache.layers[0].window == model.config.max_positions  # type: ignore[attr-defined]
    assert Layout.rows([1], [3]).positions_BTP.tolist() == [[[3]]]
