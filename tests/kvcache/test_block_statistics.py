"""What is counted is what a trace shows."""

from collections import Counter

import pytest
import torch

from handscroll.kvcache import BlockMemory
from handscroll.model import Transformer

TOKENS_1T = torch.randint(97, (1, 460), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("selection", ["shared", "per_head"])
def test_statistics_count_what_a_trace_shows(selection: str, model: Transformer) -> None:
    policy = BlockMemory(selection=selection, local_layers=1)
    cache = policy.start(model.config, model.position, 1)
    assert cache.statistics()[0][1:5] == (0, 0, 0.0, {})
    model.hidden(TOKENS_1T[:, :420], cache=cache)
    (before,) = cache.statistics()
    assert before.layer == 1
    # A trained window of 128: sinks and blocks of 8, a local window of 16 before the last tile, which begins at 416.
    assert before.archived == (416 - 16 - 8) // 8
    assert sum(before.retrieved.values()) >= policy.blocks * before.selections > 0
    exchanged, retrieved = before.exchanged * before.selections, Counter(before.retrieved)
    for token in range(420, 460):
        (old,) = cache.trace(0)
        model.hidden(TOKENS_1T[:, token : token + 1], cache=cache)
        (new,) = cache.trace(0)
        exchanged += sum(len(set(now) - set(then)) for now, then in zip(new, old, strict=True)) / len(new)
        retrieved.update({start for head in new for start in head})
    (after,) = cache.statistics()
    assert after.selections == before.selections + 40
    assert after.exchanged == pytest.approx(exchanged / after.selections)
    assert after.retrieved == retrieved
    assert list(after.retrieved) == sorted(after.retrieved)


def test_a_fork_counts_on_and_leaves_the_counts_of_its_origin(model: Transformer) -> None:
    cache = BlockMemory().start(model.config, model.position, 1)
    model.hidden(TOKENS_1T[:, :420], cache=cache)
    before = cache.statistics()
    fork = cache.select([0, 0])
    model.hidden(TOKENS_1T[:, 420:421].expand(2, -1), cache=fork)
    for one, both in zip(before, fork.statistics(), strict=True):
        assert both.selections == 2 * (one.selections + 1)
        assert both.archived == 2 * one.archived
    assert cache.statistics() == before


def test_blocks_that_were_taken_back_are_not_counted(model: Transformer) -> None:
    cache = BlockMemory().start(model.config, model.position, 1)
    for piece_1T in TOKENS_1T.split(20, dim=1):
        model.hidden(piece_1T, cache=cache)
    before = cache.statistics()
    cache.truncate([200])
    for layer, held in zip(cache.statistics(), before, strict=True):
        # The window of 16 before the tile of the last token, from 192 on, is local again.
        kept = {start: times for start, times in held.retrieved.items() if start < 192 - 16}
        assert layer.retrieved == kept != held.retrieved
