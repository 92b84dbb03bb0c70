"""`bounds` against Quest's own formula, and what makes it a bound."""

import math

import torch

from handscroll.kvcache.block_selection import claims
from handscroll.kvcache.representatives import bounds, by_sign

BLOCKS, KV_HEADS, LENGTH, WIDTH = 5, 2, 7, 6


def test_bounds_are_quests_scores_and_no_key_scores_higher() -> None:
    generator = torch.Generator().manual_seed(0)
    key_NKLD = torch.randn(BLOCKS, KV_HEADS, LENGTH, WIDTH, generator=generator)
    query_D = torch.randn(WIDTH, generator=generator)
    expanded = by_sign(query_D[None, None, None])[0, 0, 0]
    # Divided by the root of the doubled width, as `claims` does it.
    scores_NK = bounds(key_NKLD, None, 16)[:, :, 0] @ expanded / math.sqrt(2 * WIDTH)
    for block in range(BLOCKS):
        for head in range(KV_HEADS):
            keys = key_NKLD[block, head].tolist()
            expected = 0.0
            for feature, q in enumerate(query_D.tolist()):
                values = [key[feature] for key in keys]
                expected += max(q * min(values), q * max(values))
            torch.testing.assert_close(scores_NK[block, head], torch.tensor(expected / math.sqrt(WIDTH)))
            assert (key_NKLD[block, head] @ query_D / math.sqrt(WIDTH)).max() <= scores_NK[block, head]


def test_of_blocks_with_one_key_the_bound_is_the_score() -> None:
    generator = torch.Generator().manual_seed(1)
    key_NK1D = torch.randn(BLOCKS, KV_HEADS, 1, WIDTH, generator=generator)
    query_BHTD = torch.randn(1, 2 * KV_HEADS, 3, WIDTH, generator=generator)
    expected_KBN = claims(query_BHTD, key_NK1D.transpose(0, 1), None, 0.7)
    bounded_KBN = claims(by_sign(query_BHTD), bounds(key_NK1D, None, 1).transpose(0, 1), None, 0.7)
    torch.testing.assert_close(bounded_KBN, expected_KBN)
