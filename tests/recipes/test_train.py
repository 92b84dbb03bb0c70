"""A run from a recipe: what it leaves, that it resumes to the same bits, and that bad input leaves nothing."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file

from handscroll.model.position import AlibiOptions, DynamicAlibiOptions
from handscroll.recipes.extend import extend
from handscroll.recipes.folders import load_folder
from handscroll.recipes.prepare import prepare
from handscroll.recipes.reading import read_recipe
from handscroll.recipes.train import train
from handscroll.text import Tokenizer
from handscroll.training import PackedSource


def weights(out: str | Path) -> dict[str, Any]:
    return load_file(Path(out) / "model" / "model.safetensors")


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def test_a_run_leaves_its_recipe_its_log_and_a_model(recipe: dict[str, Any]) -> None:
    steps = [*train(recipe)]
    assert [each.step for each in steps] == [*range(1, 13)]
    assert steps[-1].loss < steps[0].loss
    out = Path(recipe["out"])
    assert read_recipe(out / "recipe.yaml") == read_recipe(recipe)
    assert len((out / "log.jsonl").read_text().splitlines()) == 12
    model, tokenizer = load_folder(out / "model")
    assert model.config.vocab_size == tokenizer.vocab_size == 280
    assert model.config.qkv_bias
    assert json.loads((out / "model" / "generation_config.json").read_text())["eos_token_id"] == [*tokenizer.stop_ids]


def test_an_alibi_model_is_trained_saved_stretched_and_read(recipe: dict[str, Any], tmp_path: Path) -> None:
    """From sizes to a folder, to a longer window, and on from there: positions are where they belong in each."""
    recipe["model"] |= {"position": "alibi", "qkv_bias": False}
    steps = [*train(recipe)]
    assert steps[-1].loss < steps[0].loss
    folder, long = Path(recipe["out"]) / "model", tmp_path / "long"
    model, _ = load_folder(folder)
    assert model.config.position == AlibiOptions()
    for _ in extend(folder, long, method="dynamic_alibi", to=96):
        pass
    stretched = load_folder(long).model
    assert stretched.config == replace(model.config, position=DynamicAlibiOptions())
    tokens_BT = torch.randint(280, (1, 96), generator=torch.Generator().manual_seed(0))
    # In the window of 32 tokens nothing has changed.
    assert torch.equal(stretched(tokens_BT[:, :32]), model(tokens_BT[:, :32]))
    assert not torch.allclose(stretched(tokens_BT), model(tokens_BT), atol=1e-4)
    further = {**recipe, "model": {"from": str(long)}, "out": str(tmp_path / "further")}
    del further["tokenizer"]
    assert [*train(further)][-1].loss < steps[0].loss
    assert load_folder(tmp_path / "further" / "model").model.config == stretched.config


def test_a_stopped_run_goes_on_to_the_same_bits(recipe: dict[str, Any], tmp_path: Path) -> None:
    for _ in train({**recipe, "out": str(tmp_path / "whole")}):
        pass
    for progress in train(recipe):
        if progress.step == 7:
            break
    assert not (Path(recipe["out"]) / "model").exists()
    steps = [each.step for each in train(recipe, resume=True)]
    assert steps == [*range(6, 13)]
    assert same(weights(recipe["out"]), weights(tmp_path / "whole"))


def test_a_finished_run_can_be_resumed_and_has_nothing_to_do(recipe: dict[str, Any]) -> None:
    for _ in train(recipe):
        pass
    before = weights(recipe["out"])
    assert [*train(recipe, resume=True)] == []
    assert same(weights(recipe["out"]), before)


def test_another_run_is_not_resumed(recipe: dict[str, Any]) -> None:
    for _ in train(recipe):
        pass
    with pytest.raises(ValueError, match=r"train\.steps was 12 .* and is 20 now"):
        train(recipe, overrides=["train.steps=20"], resume=True)
    with pytest.raises(ValueError, match="already holds a run"):
        train(recipe)


def test_a_moved_run_is_resumed(recipe: dict[str, Any], tmp_path: Path) -> None:
    for _ in train(recipe):
        pass
    shutil.move(recipe["out"], tmp_path / "moved")
    assert [*train(recipe, overrides=[f"out={tmp_path / 'moved'}"], resume=True)] == []


def test_a_model_is_trained_further_with_its_own_tokenizer(recipe: dict[str, Any], tmp_path: Path) -> None:
    for _ in train(recipe):
        pass
    first = recipe["out"]
    del recipe["tokenizer"]
    recipe["model"], recipe["out"] = {"from": f"{first}/model"}, str(tmp_path / "further")
    recipe["train"]["steps"] = 1
    [progress] = train(recipe)
    last = json.loads((Path(first) / "log.jsonl").read_text().splitlines()[-1])
    assert progress.loss < 1.2 * last["loss"]
    own, further = (Tokenizer.load(Path(folder) / "model") for folder in (first, recipe["out"]))
    assert own.encode("狐狸 fox") == further.encode("狐狸 fox")
    assert not (tmp_path / "further" / "tokenizer").exists()


def test_answers_are_learnt_from_messages(recipe: dict[str, Any], tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    messages = [{"role": "user", "content": "Who jumps?"}, {"role": "assistant", "content": "The quick brown fox."}]
    chats.write_text(f"{json.dumps({'messages': messages})}\n" * 8, encoding="utf-8")
    recipe |= {"objective": "sft", "data": {"files": [str(chats)]}}
    recipe["train"] |= {"window": 24, "steps": 2}
    prepared = prepare(read_recipe(recipe))
    supervised = prepared.source.windows(0, 0)[0][0].supervised
    assert supervised is not None
    assert 0 < sum(supervised) < len(supervised)
    plain = [progress.loss for progress in train(recipe)]
    assert len(plain) == 2
    # Options of the objective stand beside its name, and they count.
    recipe["objective"] = {"name": "sft", "crossbatch": [0], "crossbatch_distance": 4}
    across = [progress.loss for progress in train({**recipe, "out": str(tmp_path / "across")})]
    assert across != plain
    assert read_recipe(tmp_path / "across" / "recipe.yaml").objective.crossbatch == (0,)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"crossbatch=\(1,\): this model's layers before the last are 0 to 0"):
        train({**recipe, "out": str(tmp_path / "last")}, overrides=["objective.crossbatch=[1]"])
    assert not (tmp_path / "last").exists()


@pytest.mark.parametrize(("epochs", "window"), [(1, 32), (2, 32), (0.5, 16)])
def test_epochs_are_whole_passes(epochs: float, window: int, recipe: dict[str, Any]) -> None:
    recipe["train"] |= {"steps": None, "epochs": epochs, "window": window}
    prepared = prepare(read_recipe(recipe))
    assert isinstance(prepared.source, PackedSource)
    tokens = prepared.source.rows.lengths_N.sum()
    per_step = 4 * window
    assert tokens * epochs <= prepared.options.steps * per_step <= tokens * epochs + per_step * (1 + epochs)


BAD_CORPORA = {
    "empty": (b"", r"the corpus is empty"),
    "blank": (b" \n\n ", r"the corpus is empty"),
    "binary": (b"text\x00\x01\x02", r"is a binary file \(byte 0x00 at position 4\)"),
    "utf-16": ("text".encode("utf-16"), r"is UTF-16"),
    "gb18030": ("天地玄黄".encode("gb18030"), r"is not UTF-8: byte 0x.. at position 0 \(line 1\)"),
    "too short": (b"The quick brown fox.", r"the corpus has \d+ tokens, fewer than one window of 32"),
}


@pytest.mark.parametrize("case", BAD_CORPORA)
def test_a_bad_corpus_is_refused_before_anything_is_written(case: str, recipe: dict[str, Any], corpus: Path) -> None:
    content, says = BAD_CORPORA[case]
    corpus.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        train(recipe)
    assert not Path(recipe["out"]).exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["data.files=missing.txt"], "missing.txt does not exist"),
        (["objective=sft"], r"corpus\.txt: a row of kind text, and sft learns from completion, messages"),
        (["train.window=64"], "train.window=64 is more than the model's window, 32"),
        (
            ["model.position=learned", "train.skip_positions={to: 64}"],
            r"skip_positions\.to=64 .* vectors for 32 positions and none for others; change it, or start a model",
        ),
        (["tokenizer.vocab_size=100"], "vocab_size is 100; it must be at least 263"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    changes: list[str], says: str, recipe: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=says):
        train(recipe, overrides=changes)
    assert not Path(recipe["out"]).exists()


def test_a_conversation_without_an_answer_is_named(recipe: dict[str, Any], tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"messages": [{"role": "user", "content": "Who jumps over it?" * 9}]}) + "\n")
    with pytest.raises(ValueError, match=r"chats\.jsonl:1: the assistant says nothing"):
        train(recipe, overrides=["objective=sft", f"data.files={chats}"])


def test_a_vocabulary_of_another_model_is_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    for _ in train(recipe):
        pass
    Tokenizer.train(["the lazy dog and the quick fox " * 50], 400).save(tmp_path / "other")
    recipe["tokenizer"] = {"from": str(tmp_path / "other")}
    further = {**recipe, "model": {"from": recipe["out"] + "/model"}, "out": str(tmp_path / "further")}
    with pytest.raises(ValueError, match="they don't belong together"):
        train(further)
    with pytest.raises(ValueError, match=r"tokenizer\.vocab_size: model\.from is given"):
        train({**further, "tokenizer": {"vocab_size": 300}})
    assert not (tmp_path / "further").exists()


def test_what_cannot_fit_is_refused_with_the_numbers(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handscroll.model.footprint.available_memory", lambda device="cpu": 100_000)
    with pytest.raises(MemoryError, match=r"training \(.* = weights .*\) needs .*, but 100.0 kB of memory is free"):
        train(recipe)


def test_an_out_that_is_a_file_is_refused(recipe: dict[str, Any], corpus: Path) -> None:
    with pytest.raises(ValueError, match="is a file: give a folder"):
        train(recipe, overrides=[f"out={corpus}"])
    with pytest.raises(ValueError, match="can't be written"):
        train(recipe, overrides=[f"out={corpus}/deeper"])


def test_a_wordpiece_vocabulary_is_learnt_and_saved_with_the_model(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["tokenizer"] = {"vocab_size": 120, "kind": "wordpiece"}
    recipe["train"] |= {"steps": 1}
    for _ in train(recipe):
        pass
    loaded = load_folder(Path(recipe["out"]) / "model")
    assert loaded.tokenizer.backend.kind == "WordPiece"
    assert loaded.model.config.vocab_size == loaded.tokenizer.vocab_size <= 120
    assert "han: isolated" in (Path(recipe["out"]) / "recipe.yaml").read_text()


def test_a_tokenizer_model_rides_along_with_a_trained_model(recipe: dict[str, Any], tmp_path: Path) -> None:
    model = io.BytesIO()
    sentences = iter(["The quick brown fox jumps over the lazy dog."] * 9)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        num_threads=1,
        minloglevel=2,
    )
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "tokenizer.model").write_bytes(model.getvalue())
    recipe["tokenizer"] = {"from": str(tmp_path / "older")}
    recipe["train"] |= {"steps": 1}
    for _ in train(recipe):
        pass
    folder = Path(recipe["out"]) / "model"
    loaded = load_folder(folder)
    assert (folder / "tokenizer.model").read_bytes() == model.getvalue()
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [loaded.tokenizer.eos_id]
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    assert loaded.tokenizer.encode("The fox 天") == theirs.encode("The fox 天")
