"""Masked LM and next sentences: batches worked out by hand, transformers' collator and its BERT loss, and bad input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from handscroll.model import Transformer
from handscroll.model.checkpoint import load_model
from handscroll.model.slots import EmbeddingOptions
from handscroll.training import Batch, MaskedLM, TokenRow, Vocabulary
from handscroll.training.objectives.hiding import choose, hide
from handscroll.training.objectives.masked_lm import NEXT, PARTS
from handscroll.training.objectives.pairs import FOLLOWS, RANDOM, make_pairs

PAD, CLS, SEP, MASK, END, SIZE = 0, 2, 3, 4, 5, 60
KNOWN = Vocabulary(SIZE, {"mask": MASK, "cls": CLS, "sep": SEP}, (PAD, 1, CLS, SEP, MASK), (END,))
OBJECTIVE = MaskedLM(vocabulary=KNOWN)
# Two sentences each; the words of a text are of one ten.
TEXTS = [[first, first + 1, END, first + 2, first + 3, END] for first in (10, 20, 30, 40)]
ENDS = np.arange(SIZE) == END

# 0.1 % of all correct programs would be further from what is expected.
CHI_SQUARE_3 = 16.27


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_batch_worked_out_by_hand() -> None:
    """Two windows of two texts each, cut behind their first sentences; what is hidden is what the tokens were."""
    windows = [[TokenRow(ids) for ids in TEXTS[:2]], [TokenRow(ids) for ids in TEXTS[2:]]]
    batch = OBJECTIVE.make_batch(windows, seeded(2))
    seen_BT = torch.where(batch.targets_BT == -100, batch.tokens_BT, batch.targets_BT)
    next_BT = batch.labels[NEXT]
    assert {FOLLOWS, RANDOM} == set(next_BT[next_BT != -100].tolist())
    for window, texts in enumerate((TEXTS[:2], TEXTS[2:])):
        for place, text in zip((0, 9), texts, strict=True):
            ids, kinds = (x_BT[window, place : place + 9].tolist() for x_BT in (seen_BT, batch.layout.kinds_BT))
            assert ids[:5] == [CLS, *text[:3], SEP]
            assert (ids[7], ids[8]) == (END, SEP)
            assert kinds == [0] * 5 + [1] * 4
            others = [other[3:5] for other in TEXTS if other is not text]
            follows = next_BT[window, place] == FOLLOWS
            assert ids[5:7] == text[3:5] if follows else ids[5:7] in others
    assert batch.layout.positions_BTP[0, :, 0].tolist() == [*range(9), *range(9)]
    assert batch.layout.document_BT is not None
    assert batch.layout.document_BT[1].tolist() == [0] * 9 + [1] * 9
    assert (next_BT != -100).sum() == (batch.labels[PARTS] == 2).sum() == 4


def test_half_of_the_pairs_follow_and_all_cuts_occur() -> None:
    texts = [np.array([first, END, first + 1, END, first + 2, first + 3, END]) for first in (10, 20, 30)]
    pairs = [pair for seed in range(300) for pair in make_pairs(texts, ENDS, seeded(seed))]
    follow = [pair for pair in pairs if pair.label == FOLLOWS]
    assert abs(len(follow) - 450) < 3.3 * (900 / 4) ** 0.5
    assert {len(pair.first) for pair in pairs} == {2, 4}
    for pair, text in zip(pairs, texts * 300, strict=True):
        assert pair.second is not None
        whole = np.concatenate([pair.first, pair.second])
        assert np.array_equal(whole, text) == (pair.label == FOLLOWS)
        assert pair.second[-1] == END
        assert len(whole) == len(text)
        assert (pair.second[0] // 10 == text[0] // 10) == (pair.label == FOLLOWS)


def test_ends_of_other_texts_fit_and_are_cut_alike() -> None:
    """The first text ends within a sentence and its second part has 3 tokens; of the others these ends fit best."""
    texts = [[10, END, 11, 12, 13], [20, END, 21, END, 22, END], [30, END, 31, 32, 33, 34], [40, END, 41, 42, 43]]
    pairs = [make_pairs([np.array(ids) for ids in texts], ENDS, seeded(seed))[0] for seed in range(60)]
    taken = {tuple(pair.second.tolist()) for pair in pairs if pair.label == RANDOM and pair.second is not None}
    assert taken == {(22, END), (41, 42, 43)}
    too_long = [make_pairs([np.array(ids) for ids in ([1, END, 2], texts[2])], ENDS, seeded(s))[0] for s in range(9)]
    assert {pair.label for pair in too_long} == {FOLLOWS}


def test_texts_without_a_second_part_are_counted(make_model: Callable[..., Transformer]) -> None:
    one_sentence, two = TokenRow([10, 11, 12, END]), TokenRow(TEXTS[1])
    for rows, alone in (([one_sentence, two], 2), ([one_sentence, two, TokenRow(TEXTS[2])], 1)):
        batch = OBJECTIVE.make_batch([rows], seeded(0))
        assert (batch.labels[PARTS] == 1).sum() == alone
        assert (batch.labels[NEXT] != -100).sum() == len(rows) - alone
    model = make_model(**encoder())
    loss = OBJECTIVE.loss({"model": model}, OBJECTIVE.make_batch([[one_sentence]], seeded(0)))
    assert loss.terms["nsp"].count == 0
    assert loss.terms["nsp"].sum.item() == 0
    assert loss.metrics["alone"] == (1, 1)


def counts(tokens: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Tokens that are not chosen, and of the chosen ones those masked, kept and exchanged for others."""
    chosen = targets != -100
    masked, kept = chosen & (tokens == MASK), chosen & (tokens == targets)
    others = chosen & ~masked & ~kept
    return np.array([int(each.sum()) for each in (~chosen, masked, kept, others)])


def test_hides_as_the_collator_of_transformers_does(tmp_path: Path) -> None:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *(f"w{number}" for number in range(6, SIZE))]
    (tmp_path / "vocab.txt").write_text("\n".join(names), encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    tokens_BT = torch.randint(6, SIZE, (400, 64), generator=seeded(0))
    tokens_BT[:, 0], tokens_BT[:, -1] = CLS, SEP
    batch = collator([{"input_ids": row} for row in tokens_BT.tolist()])
    may_BT = (tokens_BT != CLS) & (tokens_BT != SEP)
    chosen_BT = choose(may_BT, 0.15, seeded(2))
    ours_BT = hide(tokens_BT, chosen_BT, MASK, SIZE, seeded(3))
    words = int(may_BT.sum())
    random = 0.1 * (SIZE - 2) / SIZE  # a random token may be the mask, or the one that stood there
    expected = words * np.array([0.85, 0.15 * (0.8 + 0.1 / SIZE), 0.15 * (0.1 + 0.1 / SIZE), 0.15 * random])
    for tokens, targets in (
        (batch["input_ids"], batch["labels"]),
        (ours_BT, tokens_BT.masked_fill(~chosen_BT, -100)),
    ):
        found = counts(tokens, targets) - np.array([800, 0, 0, 0])
        assert found.sum() == words
        assert ((found - expected) ** 2 / expected).sum() < CHI_SQUARE_3
        assert (targets[:, [0, -1]] == -100).all()
        # Random tokens are of the whole vocabulary, control tokens among them.
        odd = tokens[(targets != -100) & (tokens != MASK) & (tokens != targets)]
        assert odd.min() < 6 <= odd.max()


def encoder(**changes: Any) -> dict[str, Any]:
    from handscroll.model.heads import PretrainingOptions

    head = PretrainingOptions()
    options = {"mask": "bidirectional", "head": head, "embedding": EmbeddingOptions(segments=2), "vocab_size": SIZE}
    return {**options, **changes}


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.BertForPreTraining(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    alone = [[TokenRow(ids)] for ids in TEXTS]
    batch = OBJECTIVE.make_batch(alone, seeded(5))
    loss = OBJECTIVE.loss({"model": ours}, batch)
    expected = theirs(
        batch.tokens_BT,
        token_type_ids=batch.layout.kinds_BT,
        labels=batch.targets_BT,
        next_sentence_label=batch.labels[NEXT][:, 0],
    )
    means = [term.sum / term.count for term in loss.terms.values()]
    torch.testing.assert_close(sum(means), expected.loss, rtol=1e-5, atol=0)
    told_BT = batch.targets_BT != -100
    right = (expected.prediction_logits.argmax(-1) == batch.targets_BT)[told_BT].sum()
    follows = (expected.seq_relationship_logits.argmax(-1) == batch.labels[NEXT][:, 0]).sum()
    assert loss.metrics["mlm_accuracy"] == (int(right), int(told_BT.sum()))
    assert loss.metrics["nsp_accuracy"] == (int(follows), 4)


def test_packed_pairs_have_the_loss_of_pairs_alone(make_model: Callable[..., Transformer]) -> None:
    """The same pairs with the same tokens hidden, in one window and in a window each."""
    model = make_model(**encoder(), num_layers=3)
    alone = OBJECTIVE.make_batch([[TokenRow(ids)] for ids in TEXTS], seeded(6))
    packed = OBJECTIVE.make_batch([[TokenRow(ids) for ids in TEXTS]], seeded(6))
    (rows, length), shape = alone.tokens_BT.shape, (1, -1)
    assert packed.tokens_BT.shape == (1, rows * length)
    labels = {name: labels_BT.reshape(shape) for name, labels_BT in alone.labels.items()}
    same = Batch(alone.tokens_BT.reshape(shape), packed.layout, alone.targets_BT.reshape(shape), labels=labels)
    one, other = (OBJECTIVE.loss({"model": model}, batch) for batch in (alone, same))
    assert one.metrics == other.metrics
    for name, term in one.terms.items():
        assert term.count == other.terms[name].count
        torch.testing.assert_close(term.sum, other.terms[name].sum, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": None}, "next_sentence=true, and head=lm .*: use head=pretraining, or next_sentence=false"),
        ({"embedding": EmbeddingOptions(segments=1)}, "segments=1: a pair has 2"),
    ],
)
def test_models_that_tell_no_next_sentence(
    changes: dict[str, Any], message: str, make_model: Callable[..., Transformer]
) -> None:
    options = {name: value for name, value in encoder(**changes).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        OBJECTIVE.prepare({"model": make_model(**options)}, [], seeded(0))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"masked=1\.0: the share of tokens that are hidden"):
        MaskedLM(vocabulary=KNOWN, masked=1.0)
    with pytest.raises(ValueError, match="all of 4 tokens of this batch are control tokens"):
        OBJECTIVE.make_batch([[TokenRow([PAD, 1])]], seeded(0))


def test_without_next_sentences_texts_stay_whole(make_model: Callable[..., Transformer]) -> None:
    objective = MaskedLM(vocabulary=KNOWN, next_sentence=False)
    batch = objective.make_batch([[TokenRow(ids) for ids in TEXTS[:2]]], seeded(0))
    whole = torch.where(batch.targets_BT == -100, batch.tokens_BT, batch.targets_BT)
    assert whole.tolist() == [[CLS, *TEXTS[0], SEP, CLS, *TEXTS[1], SEP]]
    assert batch.layout.kinds_BT is None
    loss = objective.loss({"model": make_model(mask="bidirectional", vocab_size=SIZE)}, batch)
    assert list(loss.terms) == ["mlm"]
    assert int(loss.terms["mlm"].count) == batch.supervised_tokens
