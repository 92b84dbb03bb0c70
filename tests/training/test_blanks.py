"""Blank infilling against GLM's published example, and what is drawn against the distributions that are documented."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from handscroll.kernels.likelihood import IGNORE
from handscroll.training.objectives.blanks import BlankTokens, corrupt
from handscroll.training.objectives.spans import LONGEST, last_span, most_spans, sentence_spans, short_spans

MASK, START, END = 100, 101, 102
MARKS = BlankTokens(MASK, START, END)


def chance(seen: list[int], expected: list[float]) -> float:
    """Of a chi-square that is this large or larger."""
    square = sum((n - m) ** 2 / m for n, m in zip(seen, expected, strict=True))
    return float(torch.special.gammaincc(torch.tensor((len(seen) - 1) / 2), torch.tensor(square / 2)))


def test_the_papers_example() -> None:
    """Figure 2 of arXiv 2103.10360: x3 and x5 x6 are hidden, the second told first; its first axis counts from 1."""
    ids = np.arange(1, 7)
    found = corrupt(ids, np.array([[2, 3], [4, 6]]), np.array([1, 0]), MARKS)
    assert found.tokens_T.tolist() == [1, 2, MASK, 4, MASK, START, 5, 6, START, 3]
    assert found.targets_T.tolist() == [IGNORE] * 5 + [5, 6, END, 3, END]
    assert (found.positions_TP[:, 0] + 1).tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 3, 3]
    assert found.positions_TP[:, 1].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 1, 2]
    assert found.prefix == 5


def by_hand(ids: list[int], spans: list[tuple[int, int]], order: list[int]) -> tuple[list[int], ...]:
    tokens, targets, firsts, seconds, places = [], [], [], [], {}
    for place, token in enumerate(ids):
        span = next((span for span in spans if span[0] <= place < span[1]), None)
        if span is not None and place > span[0]:
            continue
        if span is not None:
            places[span] = len(tokens)
        firsts.append(len(tokens))
        tokens.append(token if span is None else MASK)
        seconds.append(0)
        targets.append(IGNORE)
    for number in order:
        start, stop = spans[number]
        tokens += [START, *ids[start:stop]]
        targets += [*ids[start:stop], END]
        firsts += [places[start, stop]] * (stop - start + 1)
        seconds += range(1, stop - start + 2)
    return tokens, targets, firsts, seconds


def test_a_slow_reference() -> None:
    """Spans side by side, at both ends, and a whole text in one."""
    rng = np.random.default_rng(0)
    cases = [(6, [(0, 6)]), (7, [(0, 2), (2, 3), (5, 7)]), (2, [(1, 2)])]
    for length in range(20, 60, 4):
        spans = short_spans(length, 0.3, 3.0, 99, rng)
        cases.append((length, [(int(start), int(stop)) for start, stop in spans]))
    for length, each in cases:
        ids, order = rng.integers(0, 50, length), rng.permutation(len(each))
        found = corrupt(ids, np.array(each), order, MARKS)
        expected = by_hand(ids.tolist(), each, order.tolist())
        got = (found.tokens_T, found.targets_T, found.positions_TP[:, 0], found.positions_TP[:, 1])
        assert tuple(x.tolist() for x in got) == expected


def test_lengths_of_short_spans_are_poissons_without_0() -> None:
    """Chi-square; by Wald's identity where drawing stops doesn't shift the shares of lengths."""
    rng, lengths, shares = np.random.default_rng(1), Counter[int](), []
    for _ in range(600):
        spans = short_spans(400, 0.15, 3.0, 99, rng)
        sizes = spans[:, 1] - spans[:, 0]
        lengths.update(sizes.tolist())
        shares.append(sizes.sum() / 400)
        assert (spans[1:, 0] > spans[:-1, 1]).all(), "a token stays between two spans"
        assert sizes[:-1].sum() < 60 <= sizes.sum() or len(spans) == 99
    top = 9  # those above are rare: taken together
    chances = torch.distributions.Poisson(3.0).log_prob(torch.arange(1.0, LONGEST + 1)).exp()
    weights = [*chances[: top - 1].tolist(), float(chances[top - 1 :].sum())]
    total = sum(lengths.values())
    seen = [lengths[n] for n in range(1, top)] + [sum(count for n, count in lengths.items() if n >= top)]
    expected = [weight / sum(weights) * total for weight in weights]
    assert chance(seen, expected) > 0.01
    # Drawing stops at 15 % or above it by less than a span, on average half of a length-biased one: 1.5 of 400 tokens.
    assert 0.15 <= np.mean(shares) < 0.158


def test_spans_stand_anywhere() -> None:
    """Each token of a text is as likely as another to be hidden, the outermost ones, which few spans reach, apart."""
    rng, hits = np.random.default_rng(2), np.zeros(60)
    for _ in range(4000):
        for start, stop in short_spans(60, 0.15, 3.0, 99, rng):
            hits[start:stop] += 1
    inner = hits[6:-6]
    assert abs(inner / inner.mean() - 1).max() < 0.2


@pytest.mark.parametrize("length", range(1, 30))
@pytest.mark.parametrize("most", [1, 3])
def test_short_texts_and_few_spans(length: int, most: int) -> None:
    rng = np.random.default_rng(length)
    for share in (0.15, 0.5):
        spans = short_spans(length, share, 3.0, most, rng)
        assert 1 <= len(spans) <= most
        assert (spans[:, 1] - spans[:, 0]).max() <= max(1, length // 2)
        assert spans.max() <= length


def test_spans_rarely_need_more_than_is_left_for_them() -> None:
    rng = np.random.default_rng(3)
    for length in (60, 450):
        most = most_spans(length, 0.15, 3.0)
        counts = [len(short_spans(length, 0.15, 3.0, 99, rng)) for _ in range(2000)]
        assert np.mean([count > most for count in counts]) < 0.005
        assert most < 2.5 * np.mean(counts)


def test_sentences() -> None:
    rng = np.random.default_rng(4)
    is_end = np.isin(np.arange(20), [3, 4, 9, 15])  # 3 and 4, such as "." and "!", end one
    borders = [0, 5, 10, 16, 20]
    seen = set()
    for _ in range(200):
        spans = sentence_spans(is_end, 0.3, 99, rng)
        assert spans is not None
        hidden = int((spans[:, 1] - spans[:, 0]).sum())
        assert hidden >= 6 or len(spans) == 3
        assert hidden - max(spans[:, 1] - spans[:, 0]) < 6
        for start, stop in spans:
            assert borders.index(start) + 1 == borders.index(stop)
            seen.add(int(start))
    assert seen == set(borders[:-1])
    # Never all of them, not even of one character each; and none of a single one.
    assert len(sentence_spans(np.ones(1, dtype=bool), 0.3, 99, rng) or ()) == 0
    two = sentence_spans(np.array([False, True, False]), 1.0, 99, rng)
    assert two is not None
    assert len(two) == 1
    assert sentence_spans(np.array([False, False, True]), 0.15, 99, rng) is None


def test_the_end_of_a_document_from_half_to_all_of_it() -> None:
    rng, sizes = np.random.default_rng(5), Counter[int]()
    for _ in range(4000):
        ((start, stop),) = last_span(9, rng)
        assert stop == 9
        sizes[int(stop - start)] += 1
    assert sorted(sizes) == [5, 6, 7, 8, 9]
    assert chance(list(sizes.values()), [800.0] * 5) > 0.01
