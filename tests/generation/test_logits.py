"""What is done to logits, against transformers' own processors: the same numbers, ties and extreme values included."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation import logits_process as theirs

from handscroll.generation import Penalties, Sampler, Sampling, logits

INF = float("inf")


def rows(vocab: int) -> Tensor:
    """Random logits, and rows with ties, one certain token, all alike, and some left out before."""
    generator = torch.Generator().manual_seed(7)
    random_BV = 3 * torch.randn(4, vocab, generator=generator)
    tied_BV = (2 * torch.randn(2, vocab, generator=generator)).round()
    certain_V, alike_V = torch.zeros(vocab), torch.full((vocab,), 0.5)
    certain_V[3] = 80.0
    out_V = random_BV[0].clone()
    out_V[::3] = -INF
    return torch.cat((random_BV, tied_BV, torch.stack((certain_V, alike_V, out_V))))


LITTLE, LARGE = rows(23), rows(3000)
TOKENS_BT = torch.randint(23, (len(LITTLE), 17), generator=torch.Generator().manual_seed(8))


def equal(ours_BV: Tensor, expected_BV: Tensor) -> None:
    assert torch.equal(ours_BV, expected_BV)


@pytest.mark.parametrize("logits_BV", [LITTLE, LARGE], ids=["little", "large"])
@pytest.mark.parametrize(
    ("ours", "processor", "values"),
    [
        (logits.temperature, theirs.TemperatureLogitsWarper, [0.3, 1.7]),
        (logits.top_k, theirs.TopKLogitsWarper, [1, 2, 5, 23, 1000]),
        (logits.top_p, theirs.TopPLogitsWarper, [1e-6, 0.1, 0.5, 0.9, 0.999]),
        (logits.min_p, theirs.MinPLogitsWarper, [0.01, 0.2, 1.0]),
        (logits.typical, theirs.TypicalLogitsWarper, [1e-6, 0.2, 0.9, 0.999]),
    ],
    ids=["temperature", "top_k", "top_p", "min_p", "typical"],
)
def test_filters_equal_transformers(ours: Any, processor: Any, values: list[Any], logits_BV: Tensor) -> None:
    kept = logits_BV.clone()
    for value in values:
        equal(ours(logits_BV, value), processor(value)(None, logits_BV.clone()))
    equal(logits_BV, kept)


def test_the_border_of_top_p_is_where_theirs_is() -> None:
    """Probabilities that add up to p exactly."""
    for probabilities, share in (([0.5, 0.3, 0.2], 0.8), ([0.25] * 4, 0.5), ([0.5, 0.25, 0.25], 0.75)):
        logits_BV = torch.tensor([probabilities]).log()
        equal(logits.top_p(logits_BV, share), theirs.TopPLogitsWarper(share)(None, logits_BV))


@pytest.mark.parametrize("name", ["top_p", "typical"])
def test_a_vocabulary_is_sorted_only_where_few_candidates_do_not_suffice(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    sort = Tensor.sort

    def watched(tensor: Tensor, **options: Any) -> Any:
        widths.append(tensor.shape[-1])
        return sort(tensor, **options)

    monkeypatch.setattr(Tensor, "sort", watched)
    ours = getattr(logits, name)
    ours(LARGE[:4], 0.3)
    assert widths == []
    ours(torch.zeros(1, 3000), 0.3)  # all alike
    assert widths == [3000]


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_equals_transformers(penalty: float) -> None:
    is_seen_BV = torch.zeros_like(LITTLE, dtype=torch.bool).scatter(1, TOKENS_BT, True)
    expected = theirs.RepetitionPenaltyLogitsProcessor(penalty)(TOKENS_BT, LITTLE.clone())
    equal(logits.repetition(LITTLE, is_seen_BV, penalty), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 18, 30])
def test_no_repeat_ngram_equals_transformers(size: int) -> None:
    tokens_BT = TOKENS_BT % 4
    pairs = zip(LITTLE, tokens_BT, strict=True)
    ours_BV = torch.stack([logits.no_repeat_ngram(logits_V, tokens_T, size) for logits_V, tokens_T in pairs])
    equal(ours_BV, theirs.NoRepeatNGramLogitsProcessor(size)(tokens_BT, LITTLE.clone()))
    assert (ours_BV == -INF).sum() > (LITTLE == -INF).sum() or size > 3


def test_bias_equals_transformers() -> None:
    added = {3: 2.5, 0: -1.0, 22: -INF}
    expected = theirs.SequenceBiasLogitsProcessor({(token,): value for token, value in added.items()})
    equal(logits.bias(LITTLE, added), expected(TOKENS_BT, LITTLE.clone()))


def test_occurrences_are_openais_formula() -> None:
    """Token by token: mu[j] -= c[j] * frequency + float(c[j] > 0) * presence."""
    counts_BV = torch.zeros_like(LITTLE).scatter_add(1, TOKENS_BT, torch.ones(TOKENS_BT.shape))
    ours_BV = logits.occurrences(LITTLE, counts_BV, 0.5, 0.25)
    for row, tokens_T in enumerate(TOKENS_BT.tolist()):
        for token in range(23):
            count = tokens_T.count(token)
            lost = count * 0.25 + float(count > 0) * 0.5
            assert ours_BV[row, token] == pytest.approx(float(LITTLE[row, token]) - lost, abs=1e-6)
    assert counts_BV.max() > 2


def test_all_together_are_in_transformers_order() -> None:
    """The probabilities that tokens are drawn from are compared."""
    options = Sampling(
        0.8,
        top_k=15,
        top_p=0.9,
        min_p=0.02,
        typical=0.95,
        penalties=Penalties(repetition=1.4, no_repeat_ngram=2),
        logit_bias={5: 3.0, 2: -2.0},
    )
    drawn: list[Tensor] = []

    def watch(probabilities_V: Tensor, count: int, generator: torch.Generator) -> Tensor:
        drawn.append(probabilities_V)
        return torch.tensor([0])

    sampler = Sampler(options, 4, read=TOKENS_BT[:4].tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "multinomial", watch)
        sampler.pick(LITTLE[:4], range(4))
    expected_BV = LITTLE[:4]
    for processor in (
        theirs.SequenceBiasLogitsProcessor({(5,): 3.0, (2,): -2.0}),
        theirs.RepetitionPenaltyLogitsProcessor(1.4),
        theirs.NoRepeatNGramLogitsProcessor(2),
        theirs.TemperatureLogitsWarper(0.8),
        theirs.TopKLogitsWarper(15),
        theirs.TopPLogitsWarper(0.9),
        theirs.MinPLogitsWarper(0.02),
        theirs.TypicalLogitsWarper(0.95),
    ):
        expected_BV = processor(TOKENS_BT[:4], expected_BV)
    equal(torch.stack(drawn), expected_BV.softmax(-1))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Sampling(1.0, top_k=-1), "top_k=-1"),
        (lambda: Sampling(1.0, top_p=0.0), "top_p=0.0"),
        (lambda: Sampling(1.0, top_p=1.01), r"top_p=1.01: a probability above 0, up to 1"),
        (lambda: Sampling(1.0, min_p=-0.1), "min_p=-0.1"),
        (lambda: Sampling(1.0, typical=math.nan), "typical=nan"),
        (lambda: Sampling(top_p=0.9), r"top_p=0.9 says nothing at temperature 0.*give a temperature above 0"),
        (lambda: Penalties(repetition=0.0), "repetition_penalty=0.0"),
        (lambda: Penalties(presence=math.inf), "presence_penalty=inf"),
        (lambda: Penalties(no_repeat_ngram=-1), "no_repeat_ngram=-1"),
        (lambda: Sampling(logit_bias={3: math.inf}), "logit_bias of token 3 is inf"),
        (lambda: Sampling(logit_bias={97: 1.0}).check_tokens(97), "names token 97, but the model knows 0 to 96"),
    ],
)
def test_impossible_options_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_options_that_forbid_everything_are_refused() -> None:
    sampler = Sampler(Sampling(1.0, penalties=Penalties(no_repeat_ngram=1)), 1)
    assert sorted(sampler.pick(torch.zeros(1, 5), [0])[0] for _ in range(5)) == list(range(5))
    with pytest.raises(ValueError, match="leave no token that might come next"):
        sampler.pick(torch.zeros(1, 5), [0])
