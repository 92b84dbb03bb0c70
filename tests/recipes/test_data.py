"""Data of a recipe: rows as tokens, mixtures, bad rows, and tokens that are written once."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from handscroll.recipes.data import read_data
from handscroll.recipes.documents import PIECE, token_rows
from handscroll.recipes.events import Advance, Said
from handscroll.recipes.inspection import inspect
from handscroll.recipes.prepare import prepare
from handscroll.recipes.reading import read_recipe
from handscroll.recipes.train import TOKENS, train
from handscroll.text import Corpus, Skipped, Tokenizer
from handscroll.training import MixedSource, TokenFile, TokenRow

USER = {"role": "user", "content": "Who jumps?"}
FOX, DOG = ({"role": "assistant", "content": text} for text in ("The quick brown fox.", "The lazy dog."))
CHAT = {"messages": [USER, FOX]}
PAIR = {"prompt": [USER], "chosen": [FOX], "rejected": [DOG]}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["The quick brown fox jumps over the lazy dog.\n\n 天地玄黄 " * 9], 300)


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def learnt(row: TokenRow, tokenizer: Tokenizer) -> str:
    assert row.supervised is not None
    return tokenizer.decode(np.asarray(row.ids)[np.asarray(row.supervised)].tolist())


def test_sft_learns_answers_of_every_kind(tmp_path: Path, tokenizer: Tokenizer) -> None:
    earlier = [USER, DOG, USER]
    rows = [
        CHAT,
        {"prompt": "The quick", "completion": " brown fox"},
        {"prompt": earlier, "completion": [FOX]},
        {"messages": [*earlier, FOX]},
        {"instruction": "Who", "input": "jumps", "output": "The fox."},
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "The fox."}]},
    ]
    tokens = [*token_rows(Corpus(lines(tmp_path / "rows.jsonl", *rows)), tokenizer, "sft")]
    assert [learnt(row, tokenizer) for row in tokens] == [
        "The quick brown fox.<|end|>",
        " brown fox<|eos|>",
        "The quick brown fox.<|end|>",
        "The lazy dog.<|end|>The quick brown fox.<|end|>",
        "The fox.<|end|>",
        "The fox.<|end|>",
    ]
    # A completed prompt is read as a conversation with a prompt is, but for what of it is learnt.
    assert [*tokens[2].ids] == [*tokens[3].ids]


def test_tokens_begin_as_the_tokenizer_says_and_a_completion_goes_on(tmp_path: Path) -> None:
    own = Tokenizer.train(["The quick brown fox " * 9], 280)
    own.config["add_bos_token"] = True
    path = lines(tmp_path / "rows.jsonl", {"prompt": "The", "completion": " fox"}, {"text": "The fox"})
    completion, text = (list(row.ids) for row in token_rows(Corpus(path), own, "causal_lm"))
    assert completion == text == [own.bos_id, *own.encode("The fox"), own.eos_id]
    own.config["add_bos_token"] = False
    assert [*next(iter(token_rows(Corpus(path), own, "causal_lm"))).ids] == [*own.encode("The fox"), own.eos_id]


def test_a_long_text_has_the_tokens_of_its_whole(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    words = [" ", "\n", "\n\n", " fox", "dog", "\t", "天地", " 12", "345", "!", "\r\n", "  the"]
    text = "".join(rng.choice(words, PIECE))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    [row] = token_rows(Corpus(tmp_path / "a.txt"), tokenizer, "causal_lm")
    assert [*row.ids][:-1] == tokenizer.encode(text.replace("\r\n", "\n"))


RAISING = "{{ raise_exception('only Chinese here') }}"
BAD_ROWS = [
    ("sft", {"text": "plain"}, "a row of kind text, and sft learns from completion, messages: give messages or prompt"),
    ("sft", PAIR, "a row of kind preference, and sft learns from completion, messages"),
    ("causal_lm", PAIR, "a row of kind preference, and causal_lm learns from text, completion, messages"),
    ("sft", {"messages": [USER]}, "the assistant says nothing in this conversation"),
    ("sft", {"messages": [{"role": "pirate", "content": "arr"}]}, "does not accept these messages: the role is pirate"),
    ("causal_lm", {"text": "😀 half \ud83d of one"}, r"half of a character, '\\ud83d', stands alone"),
    ("sft", {"messages": [USER, {"role": "assistant", "content": "half \ud83d"}]}, "half of a character"),
    ("sft", {"prompt": "half \ud83d", "completion": "x"}, "half of a character"),
    ("causal_lm", {"body": "x"}, "columns are 'body'"),
]


@pytest.mark.parametrize(("objective", "bad", "message"), BAD_ROWS)
def test_a_bad_row_is_named_or_counted(
    objective: str, bad: Any, message: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = lines(tmp_path / "rows.jsonl", CHAT, bad, CHAT)
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: .*{message}"):
        [*token_rows(Corpus(path), tokenizer, objective)]
    skipped = Skipped()
    assert len([*token_rows(Corpus(path, skipped), tokenizer, objective)]) == 2
    assert skipped.count == 1
    with pytest.raises(ValueError, match=rf"(?s)the corpus is empty.*left out 1 bad rows:.*rows\.jsonl:1: .*{message}"):
        [*token_rows(Corpus(lines(path, bad), Skipped()), tokenizer, objective)]


def test_a_template_that_raises_is_named_by_row(tmp_path: Path, tokenizer: Tokenizer) -> None:
    own = Tokenizer.train(["fox"], 263)
    own.config["chat_template"] = RAISING
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: the chat template does not accept .*only Chinese here"):
        [*token_rows(Corpus(lines(tmp_path / "rows.jsonl", CHAT)), own, "sft")]
    own.config["chat_template"] = "{# nothing #}"
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: the chat template makes no text of this conversation"):
        [*token_rows(Corpus(tmp_path / "rows.jsonl"), own, "causal_lm")]


def as_written(path: Path) -> tuple[int, ...]:
    """What changes when a file is written, and not, as the time of access, when it is read."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def test_tokens_are_written_once_and_anew_for_other_data(recipe: dict[str, Any], corpus: Path) -> None:
    for progress in train(recipe):
        if progress.step == 7:
            break
    written = Path(recipe["out"]) / TOKENS / "0" / "ids.bin"
    before = as_written(written)
    events: list[Advance | Said] = []
    assert [each.step for each in train(recipe, resume=True, watch=events.append)] == [*range(6, 13)]
    assert as_written(written) == before
    assert events == []
    os.utime(corpus, (1, 1))
    assert [*train(recipe, resume=True, watch=events.append)] == []
    assert as_written(written) != before
    assert [event.done == event.total for event in events if isinstance(event, Advance)] == [True]
    corpus.write_text("Other words. " * 99, encoding="utf-8")
    with pytest.raises(ValueError, match="source was"):
        train(recipe, resume=True)


@pytest.fixture
def mixed(recipe: dict[str, Any], corpus: Path, tmp_path: Path) -> dict[str, Any]:
    lines(tmp_path / "chats.jsonl", *[CHAT] * 30)
    parts = [{"files": str(corpus), "weight": 3}, {"files": [str(tmp_path / "chats.jsonl")], "weight": 1}]
    return recipe | {"data": {"mix": parts}}


def test_a_mixture_is_trained_stopped_and_resumed(mixed: dict[str, Any], tmp_path: Path) -> None:
    prepared = prepare(read_recipe(mixed))
    user = prepared.tokenizer.id_of("<|user|>")
    places = [(step, micro) for step in range(12) for micro in range(2)]
    windows = [window for place in places for window in prepared.source.windows(*place)]
    chats = sum(user in row.ids for window in windows for row in window[:1])
    assert chats == 12
    whole = [progress.loss for progress in train({**mixed, "out": str(tmp_path / "whole")})]
    for progress in train(mixed):
        if progress.step == 7:
            break
    assert [progress.loss for progress in train(mixed, resume=True)] == whole[5:]
    saved = [load_file(Path(out) / "model" / "model.safetensors") for out in (mixed["out"], tmp_path / "whole")]
    assert all(saved[0][name].equal(saved[1][name]) for name in saved[0])
    mixed["data"]["mix"][0]["weight"] = 2
    with pytest.raises(ValueError, match=r"data\.mix was"):
        train(mixed, resume=True)


def test_an_epoch_of_a_mixture_draws_as_much_as_its_parts_hold(mixed: dict[str, Any]) -> None:
    mixed["train"] |= {"steps": None, "epochs": 2}
    prepared = prepare(read_recipe(mixed))
    assert isinstance(prepared.source, MixedSource)
    windows = sum(part.packed(epoch) for part in prepared.source.parts for epoch in range(2))
    assert prepared.options.steps == -(-windows // 4)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "data: neither is given: say files, or mix"),
        ({"files": "a.txt", "mix": [{"files": "b.txt", "weight": 1}]}, "data: both are given"),
        ({"mix": []}, "data.mix=[]"),
        ({"mix": [{"files": [], "weight": 1}]}, "data.mix.0.files: no file is named"),
        ({"mix": [{"files": "a.txt", "weight": 0}]}, "data.mix.0.weight=0"),
        ({"mix": [{"files": "a.txt", "wieght": 1}]}, "did you mean data.mix.0.weight?"),
    ],
)
def test_mistakes_in_a_mixture_are_named(data: Any, says: str, recipe: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        read_recipe(recipe | {"data": data})


def test_bad_rows_are_told_when_tokens_are_read_and_read_again(recipe: dict[str, Any], tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", *[{"text": "The quick brown fox. " * 9}] * 9, {"body": 1})
    with pytest.raises(ValueError, match=r"rows\.jsonl:10: the columns are 'body'"):
        train(recipe, overrides=[f"data.files={path}"])
    assert not Path(recipe["out"]).exists()
    checked = read_recipe(recipe, [f"data.files={path}", "data.skip_bad=true"])
    own = Tokenizer.train(["The quick brown fox."], 280)
    for _ in range(2):
        events: list[Advance | Said] = []
        [rows] = read_data(checked.data, own, "causal_lm", tmp_path / "tokens", events.append)
        assert isinstance(rows, TokenFile)
        assert len(rows.lengths_N) == 9
        [said] = [event for event in events if isinstance(event, Said)]
        assert said.text.startswith(f"left out 1 bad rows:\n  {path}:10: the columns are 'body'")


def test_inspection_counts_what_training_learns(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = lines(tmp_path / "rows.jsonl", CHAT, {"text": "The fox"}, PAIR, {"prompt": "a", "completion": " fox"})
    *_, finished = inspect(Corpus(path), tokenizer, None, 9)
    result = finished.result  # type: ignore[union-attr]
    [chat] = token_rows(Corpus(lines(tmp_path / "chat.jsonl", CHAT)), tokenizer, "sft")
    assert result["kinds"] == {"messages": 1, "text": 1, "preference": 1, "completion": 1}
    first, text, pair, completion = result["shown"]
    assert (first["tokens"], first["supervised_tokens"]) == (len(chat.ids), np.sum(chat.supervised))
    assert [[*piece.values()] for piece in first["views"][0]] == [
        ["<|user|>Who jumps?<|end|><|assistant|>", False],
        ["The quick brown fox.<|end|>", True],
    ]
    assert [view[1]["text"] for view in pair["views"]] == ["The quick brown fox.<|end|>", "The lazy dog.<|end|>"]
    assert completion["views"][0][1] == {"text": " fox<|eos|>", "supervised": True}
    assert result["tokens"] == sum(row["tokens"] for row in result["shown"])
    assert result["longest"] == {"place": f"{path}:3", "tokens": pair["tokens"]}
    assert text["supervised_tokens"] == text["tokens"] - 1
