"""Every head by itself: values against transformers or a plain formula, gradients, and what may be trained on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, LlamaConfig, LlamaForSequenceClassification, LlamaForTokenClassification
from transformers.models.bert.modeling_bert import BertPooler, BertPreTrainingHeads

from handscroll.kernels.likelihood import cross_entropy_sum
from handscroll.model import Layout, ModelConfig, Transformer, load_model, save_model
from handscroll.model.footprint import parameter_count
from handscroll.model.heads import (
    HEAD_KINDS,
    HEADS,
    LmHeadOptions,
    MaskedLmOptions,
    NormalizedHeadOptions,
    PretrainingOptions,
    ScalarOptions,
    SequenceClassificationOptions,
    SpanOptions,
    StatesOptions,
    TokenClassificationOptions,
    make_head,
)
from handscroll.model.pooling import pool
from handscroll.model.slots import EmbeddingOptions

CONFIG = ModelConfig(
    vocab_size=31,
    width=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_width=8,
    feedforward_width=24,
    max_positions=32,
)
VARIANTS = [
    LmHeadOptions(),
    LmHeadOptions(bias=True),
    NormalizedHeadOptions(),
    MaskedLmOptions("gelu_tanh"),
    PretrainingOptions(),
    SequenceClassificationOptions(3, pooling="mean", pooler=True),
    SequenceClassificationOptions(5, bias=False, pooling="last"),
    TokenClassificationOptions(4),
    SpanOptions(),
    ScalarOptions(),
    ScalarOptions(at="every", bias=True),
    StatesOptions(),
    StatesOptions(pooler=True),
]
LENGTHS = (7, 3, 1)


def with_head(head: Any, **changes: Any) -> ModelConfig:
    return dataclasses.replace(CONFIG, head=head, **changes)


def tensors_of(output: Any) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else [each for each in output if each is not None]


def test_every_head_is_here() -> None:
    assert set(HEADS) == set(HEAD_KINDS.values()) == {type(each) for each in VARIANTS}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("head", VARIANTS, ids=str)
def test_contract(head: Any, tied: bool, tmp_path: Path) -> None:
    """Padding is inert, every weight gets a gradient, formula and tensors agree, and a folder brings all of it back."""
    model = Transformer(with_head(head, tied_embeddings=tied))
    assert parameter_count(model.config) == sum(each.numel() for each in model.parameters())
    assert all(each.isfinite().all() for each in model.parameters())
    layout = Layout.rows(LENGTHS)
    tokens_BT = torch.randint(0, 31, (3, 7), generator=torch.Generator().manual_seed(1))
    hidden_BTE = model.hidden(tokens_BT, layout).last_BTE
    real_BT = layout.index_BT >= 0
    found = tensors_of(model(tokens_BT, layout))
    moved_BTE = torch.where(real_BT[..., None], hidden_BTE, torch.tensor(float("nan")))
    for one, other in zip(found, tensors_of(model.head(moved_BTE, layout, model.embedding.weight)), strict=True):
        rows = real_BT if one.shape[:2] == real_BT.shape else slice(None)
        torch.testing.assert_close(one[rows], other[rows])
    loss = sum(each[each.isfinite()].square().sum() for each in found)
    loss.backward()
    assert all(each.grad is not None and each.grad.any() for each in model.head.parameters())
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.config == model.config
    for one, other in zip(found, tensors_of(again(tokens_BT, layout)), strict=True):
        torch.testing.assert_close(one, other)


def test_berts_heads_equal_transformers() -> None:
    theirs = BertPreTrainingHeads(BertConfig(vocab_size=31, hidden_size=16, layer_norm_eps=1e-3)).eval()
    pooler = BertPooler(BertConfig(hidden_size=16))
    ours: Any = make_head(with_head(PretrainingOptions(), norm_eps=1e-3))
    with torch.no_grad():
        for each in (*theirs.parameters(), *pooler.parameters()):
            each.copy_(torch.randn(each.shape, generator=torch.Generator().manual_seed(each.numel())) * 0.3)
    transform, decoder = theirs.predictions.transform, theirs.predictions.decoder
    ours.load_state_dict(
        {"weight": decoder.weight, "bias": decoder.bias}
        | {f"dense.{name}": each for name, each in transform.dense.state_dict().items()}
        | {f"norm.{name}": each for name, each in transform.LayerNorm.state_dict().items()}
        | {f"pooler.{name}": each for name, each in pooler.dense.state_dict().items()}
        | {f"relation.{name}": each for name, each in theirs.seq_relationship.state_dict().items()}
    )
    hidden_BTE = torch.randn(3, 7, 16)
    tokens_BTV, relation_BR = theirs(hidden_BTE, pooler(hidden_BTE))
    found = ours(hidden_BTE, Layout.rows([7, 7, 7]), torch.zeros(31, 16))
    torch.testing.assert_close(found.tokens_BTV, tokens_BTV, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.relation_BR, relation_BR, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("head", [NormalizedHeadOptions(), MaskedLmOptions(), LmHeadOptions(bias=True)], ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_chunked_likelihood_equals_the_logits(head: Any, tied: bool) -> None:
    """The loss that never holds all logits, against PyTorch's own of the head's output; gradients of every weight."""
    config = with_head(head, tied_embeddings=tied, embedding=EmbeddingOptions(norm=True))
    model = Transformer(config)
    if model.head.bias is not None:
        torch.nn.init.normal_(model.head.bias)
    tokens_BT = torch.randint(0, 31, (2, 9), generator=torch.Generator().manual_seed(2))
    slow = F.cross_entropy(model(tokens_BT[:, :-1]).flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum")
    features_NE = model.features(model.hidden(tokens_BT[:, :-1]).last_BTE.flatten(0, 1))
    targets_N = tokens_BT[:, 1:].flatten()
    fast = cross_entropy_sum(features_NE, model.output_weight_VE, targets_N, bias_V=model.output_bias_V, chunk=5).sum
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=0)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(slow, parameters)
    torch.testing.assert_close(torch.autograd.grad(fast, parameters), expected, rtol=1e-4, atol=1e-5)


def test_normalized_rows_follow_the_weights() -> None:
    """What is kept of the division is forgotten as soon as a weight changes, and never stands in a gradient's way."""
    head: Any = make_head(with_head(NormalizedHeadOptions()))
    torch.nn.init.normal_(head.weight)
    hidden_NE, embedding_VE = torch.randn(4, 16), torch.zeros(31, 16)

    def expected() -> torch.Tensor:
        return hidden_NE @ (head.weight / head.weight.norm(dim=1, keepdim=True)).T

    with torch.no_grad():
        torch.testing.assert_close(head.logits(hidden_NE, embedding_VE), expected())
        assert head.matrix(embedding_VE) is head.matrix(embedding_VE)
        head.weight[3] *= -2
        torch.testing.assert_close(head.logits(hidden_NE, embedding_VE), expected())
    head.load_state_dict({"weight": torch.randn(31, 16)})
    with torch.inference_mode():
        torch.testing.assert_close(head.logits(hidden_NE, embedding_VE), expected())
    (grad_VE,) = torch.autograd.grad(head.logits(hidden_NE, embedding_VE)[:, 2].sum(), head.weight)
    # Along its own direction a row can't change a logit.
    torch.testing.assert_close((grad_VE * head.weight).sum(1), torch.zeros(31), atol=1e-5, rtol=0)


def test_pooling() -> None:
    hidden_BTE = torch.arange(24.0).view(2, 4, 3)
    left_padded = Layout.packed(
        torch.tensor([[0, 1, 2, -1], [-1, -1, 0, 1]]), torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4)
    )
    first, last, mean = (pool(hidden_BTE, left_padded, way)[:, 0].tolist() for way in ("first", "last", "mean"))
    assert (first, last, mean) == ([0, 18], [6, 21], [3, 19.5])
    with pytest.raises(ValueError, match="pooling='max' is not known; known: first, mean, last"):
        pool(hidden_BTE, left_padded, "max")


DECODERS = {
    "labels": (LlamaForSequenceClassification, 3, SequenceClassificationOptions(3, False, pooling="last")),
    "reward": (LlamaForSequenceClassification, 1, ScalarOptions()),
    "tokens": (LlamaForTokenClassification, 4, TokenClassificationOptions(4)),
}


@pytest.mark.parametrize("name", list(DECODERS))
def test_heads_of_decoders_equal_transformers(name: str, tmp_path: Path) -> None:
    make, labels, options = DECODERS[name]
    sizes = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    theirs = make(LlamaConfig(**sizes, num_attention_heads=2, num_labels=labels, pad_token_id=0)).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert ours.config.head == options
    tokens_BT = torch.randint(1, 31, (3, 7), generator=torch.Generator().manual_seed(1))
    real_BT = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    with torch.no_grad():
        expected = theirs(tokens_BT * real_BT, attention_mask=real_BT.long()).logits
        found = ours(tokens_BT, Layout.rows(LENGTHS))
    rows = real_BT if name == "tokens" else slice(None)
    torch.testing.assert_close(found.view_as(expected)[rows], expected[rows], atol=1e-4, rtol=0)
    save_model(ours, tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == (tmp_path / "config.json").read_text()
    again = make.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(again.score.weight, theirs.score.weight)


def test_a_new_decoder_with_labels_is_written_as_one(tmp_path: Path) -> None:
    model = Transformer(with_head(SequenceClassificationOptions(3, False, pooling="last")))
    save_model(model, tmp_path)
    theirs = LlamaForSequenceClassification.from_pretrained(tmp_path)
    assert (type(theirs).__name__, theirs.config.num_labels) == ("LlamaForSequenceClassification", 3)
    assert torch.equal(theirs.score.weight, model.head.classifier.weight)


def test_heads_without_tokens_say_so() -> None:
    model = Transformer(with_head(SpanOptions()))
    with pytest.raises(ValueError, match="head=span tells no tokens"):
        model.logits(torch.zeros(1, 16))
    with pytest.raises(ValueError, match="num_labels=0"):
        TokenClassificationOptions(0)
    with pytest.raises(ValueError, match="at='first' is not known; known: last, every"):
        ScalarOptions(at="first")
    with pytest.raises(ValueError, match="embedding of width 8 can't be the head's matrix, which reads 16 features"):
        with_head(LmHeadOptions(), tied_embeddings=True, embedding=EmbeddingOptions(width=8))
