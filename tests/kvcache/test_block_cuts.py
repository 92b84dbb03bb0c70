"""Blocks that end with sentences: where they end, whoever cuts the text, and what going back and forks keep."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from handscroll.generation import generate, read
from handscroll.kvcache import BlockMemory, cuts_sentences, make_policy
from handscroll.kvcache.block_cuts import block_ends
from handscroll.kvcache.block_layer import BlockLayer
from handscroll.kvcache.block_memory import BlockMemoryCache, Sizes
from handscroll.model import Transformer

SIZES = Sizes(sinks=2, blocks=3, block=8, window=16, tile=8, by_sentence=True)
POLICY = BlockMemory(cut="sentences", representative="bounds")
# Of the tests' 97 tokens these end a sentence.
BREAKS = (3, 14, 15, 92, 65, 35)
TEXT = torch.randint(97, (600,), generator=torch.Generator().manual_seed(4)).tolist()


def test_blocks_end_behind_the_last_break_of_their_second_half() -> None:
    # Breaks at 4 and 5: the block from 2 ends behind 5, its fourth token; the next has none but at its very end.
    assert block_ends(2, 3, SIZES, [4, 5]) == [6]
    assert block_ends(2, 3, SIZES, [4, 5, 9]) == [10]
    # The third token ends a sentence, in the first half: the block is full.
    assert block_ends(2, 3, SIZES, [4]) == [10]
    assert block_ends(2, 20, SIZES, [5, 6, 14, 30]) == [7, 15, 23]
    assert block_ends(2, 2, SIZES, [5]) == []
    fixed = Sizes(sinks=2, blocks=3, block=8, window=16, tile=8)
    assert block_ends(2, 20, fixed, [5, 6, 14, 30]) == [10, 18, 26]


def archived(cache: BlockMemoryCache) -> list[list[int]]:
    return [layer.rows[0].edges_N.tolist() for layer in cache.layers if isinstance(layer, BlockLayer)]


def first_layer(cache: BlockMemoryCache) -> tuple[Tensor, Tensor]:
    """Keys and values of all that is archived; in the first layer they depend on the tokens alone."""
    layer = cache.layers[0]
    assert isinstance(layer, BlockLayer)
    places_N = torch.arange(len(layer.rows[0].table_N))
    return layer._gather(layer.rows[0], places_N.expand(layer.buffers.key_BKAD.shape[1], -1))


def read_all(model: Transformer, cache: BlockMemoryCache, ids: list[int], chunk: int) -> None:
    for _ in read(model, [ids], cache, chunk, breaks=BREAKS):
        pass


def test_blocks_depend_on_the_text_alone_not_on_its_chunks(model: Transformer) -> None:
    cuts = []
    for chunk in (600, 1, 37):
        cache = POLICY.start(model.config, model.position, 1)
        read_all(model, cache, TEXT, chunk)
        cuts.append(archived(cache))
    assert cuts[0] == cuts[1] == cuts[2]
    (edges, other) = cuts[0]
    assert edges == other
    lengths = {end - start for start, end in pairwise(edges)}
    assert min(lengths) == 4 and max(lengths) == 8
    for start, end in pairwise(edges):
        inside = [n + 1 for n in range(start + 3, start + 8) if TEXT[n] in BREAKS]
        assert end == (inside[-1] if inside else start + 8)


def test_blocks_that_hold_some_tokens(model: Transformer) -> None:
    cache = POLICY.start(model.config, model.position, 1)
    read_all(model, cache, TEXT, 64)
    edges = archived(cache)[0]
    # With the next token the tile from 592 on begins anew at 600 only: nothing more leaves the window.
    for first in range(0, 600, 7):
        holding = [start for start, end in pairwise(edges) if set(range(first, first + 11)) & set(range(start, end))]
        assert cache.blocks_with(0, first, first + 11) == holding
    assert {start for layer in cache.trace(0) for head in layer for start in head} <= set(edges)


def test_without_breaks_it_is_the_same_as_fixed_blocks(model: Transformer) -> None:
    fixed, sentences = (BlockMemory(cut=cut, representatives=4) for cut in ("fixed", "sentences"))
    caches = [policy.start(model.config, model.position, 1) for policy in (fixed, sentences)]
    tokens_1T = torch.tensor([TEXT])
    assert torch.equal(*(model(tokens_1T, cache=cache) for cache in caches))
    assert caches[0].trace(0) == caches[1].trace(0)


@pytest.mark.parametrize("length", [301, 320, 155, 40, 0])
def test_going_back_equals_never_having_read(length: int, model: Transformer) -> None:
    """Blocks that are local again are cut anew by what follows; what was asked before is forgotten in both."""
    back, fresh = (POLICY.start(model.config, model.position, 1) for _ in range(2))
    read_all(model, back, TEXT, 64)
    with torch.inference_mode():
        back.truncate([length])
    if length:
        read_all(model, fresh, TEXT[:length], 64)
    # Another text than before: a break that was forgotten too late would cut it differently.
    other = TEXT[::-1][:200]
    for cache in (back, fresh):
        read_all(model, cache, other, 200)
    assert archived(back) == archived(fresh)
    assert back.lengths == fresh.lengths
    for mine, expected in zip(first_layer(back), first_layer(fresh), strict=True):
        torch.testing.assert_close(mine, expected, atol=2e-5, rtol=0)


def test_forks_cut_their_own_text(model: Transformer) -> None:
    cache = POLICY.start(model.config, model.position, 1)
    read_all(model, cache, TEXT[:300], 64)
    before = archived(cache)
    fork = cache.select([0])
    read_all(model, fork, TEXT[300:], 64)
    assert archived(cache) == before
    alone = POLICY.start(model.config, model.position, 1)
    read_all(model, alone, TEXT, 600)
    assert archived(fork) == archived(alone)


def test_tokens_that_were_generated_end_sentences_too(model: Transformer) -> None:
    cache = POLICY.start(model.config, model.position, 1)
    replies = [each.token for each in generate(model, [TEXT[:300]], cache, max_new_tokens=200, breaks=BREAKS)]
    alone = POLICY.start(model.config, model.position, 1)
    read_all(model, alone, TEXT[:300] + replies[:-1], 600)
    assert archived(cache) == archived(alone)


def test_what_has_no_equal_blocks_refuses_what_needs_them() -> None:
    for option in ({"selection": "per_head"}, {"representative": "all"}):
        with pytest.raises(ValueError, match="cut='sentences' makes blocks of different lengths"):
            make_policy({"policy": "block_memory", "cut": "sentences", **option})
    with pytest.raises(ValueError, match=r"cut='words': .*'fixed' or 'sentences'"):
        make_policy({"policy": "block_memory", "cut": "words"})
    assert cuts_sentences(POLICY)
    assert not cuts_sentences(BlockMemory())
