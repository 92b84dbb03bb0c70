"""A user's mistake is one line on stderr and exit code 2: no traceback, nothing on stdout, nothing half-written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handscroll.text import Tokenizer

Run = Callable[..., Any]

# The command, and what its line says.
MISTAKES = {
    "unknown policy": (
        ["generate", "model", "The", "--cache", "blok"],
        "unknown cache policy 'blok': known are full, sliding_window, attention_sinks, heavy_hitters",
    ),
    "unknown option of a policy": (
        ["generate", "model", "The", "--cache", "full", "--cache.window=3"],
        "full has no option 'window': known are none",
    ),
    "negative window": (
        ["generate", "model", "The", "--cache", "sliding_window", "--cache.window=-3"],
        "window=-3: a sliding window holds at least 1 token",
    ),
    "mistyped dotted option": (
        ["generate", "model", "The", "--cahce.window=3"],
        "there is no option --cahce.window; did you mean --cache.window?",
    ),
    "dotted option without a value": (["generate", "model", "The", "--cache.window"], "--cache.window needs a value"),
    "negative tokens": (["generate", "model", "The", "--max-new-tokens", "-1"], "max_new_tokens=-1: at least 1"),
    "filter without a temperature": (
        ["generate", "model", "The", "--top-k", "5"],
        "top_k=5 says nothing at temperature 0",
    ),
    "bias without a value": (["generate", "model", "The", "--logit-bias", "5"], "such as 42=-5"),
    "bias of an unknown token": (["generate", "model", "The", "--logit-bias", "5000=1"], "logit_bias names token 5000"),
    "log-probabilities as text": (["generate", "model", "The", "--logprobs", "2"], "add --json"),
    "unknown end of a search": (
        ["generate", "model", "The", "--beams", "2", "--early-stopping", "perhaps"],
        "known are no, yes, never",
    ),
    "beams that draw": (
        ["generate", "model", "The", "--beams", "2", "--temperature", "1"],
        "beam search knows nothing of a temperature",
    ),
    "no prompt": (["generate", "model"], "there is nothing to continue: give a PROMPT"),
    "no message": (["generate", "model", "--chat", "--file", "text.txt"], "--chat answers a message"),
    "empty prompt": (["generate", "model", ""], "the prompt is empty"),
    "missing model": (["generate", "nowhere", "The"], "nowhere is not a folder: give a folder that holds config.json"),
    "folder of a run": (["generate", ".", "The"], ". holds no config.json: give model"),
    "missing file": (["generate", "model", "The", "--file", "no.txt"], "no.txt does not exist"),
    "text as an option of a policy": (
        ["generate", "model", "The", "--cache", "sliding_window", "--cache.window=wide"],
        "window='wide': Input should be a valid integer",
    ),
    "memory of what": (["ask", "model", "Who?"], "say what the questions are about: either --memory, or --file"),
    "memory and file": (["ask", "model", "Who?", "--memory", "b.memory", "--file", "text.txt"], "either --memory, or"),
    "memory that isn't there": (["ask", "model", "Who?", "--memory", "no.memory"], "no.memory is not a file: give a"),
    "memory that is none": (["ask", "model", "Who?", "--memory", "text.txt"], "text.txt is not a memory, or it is"),
    "policy of a memory": (
        ["ask", "model", "Who?", "--memory", "text.txt", "--cache", "full"],
        "text.txt has a way of remembering of its own: leave --cache out",
    ),
    "empty question": (["ask", "model", " ", "--file", "text.txt"], "a question is empty"),
    "no answer": (
        ["ask", "model", "Who?", "--file", "text.txt", "--max-new-tokens", "0"],
        "max_new_tokens=0: at least",
    ),
    "memory over a text": (["read", "model", "text.txt", "--save", "text.txt"], "text.txt exists already: ask it"),
    "memory over a folder": (["read", "model", "text.txt", "--save", "model"], "model is a folder: give the name of a"),
    "memory below a file": (["read", "model", "text.txt", "--save", "text.txt/m"], "text.txt is a file: give a folder"),
    "unknown policy of reading": (["read", "model", "text.txt", "--save", "m", "--cache", "blok"], "policy 'blok'"),
    "nothing to read": (["read", "model", "no.txt", "--save", "m"], "no.txt does not exist"),
    "unknown suite": (["eval", "model", "--suite", "recal"], "unknown suite 'recal': known are recall, perplexity"),
    "unknown policy of a suite": (["eval", "model", "--policies", "full,blok"], "unknown cache policy 'blok'"),
    "unknown option of a suite": (["eval", "model", "--suite.deep=3"], "the suite has no option 'deep'"),
    "negative length of a suite": (["eval", "model", "--tokens", "-5"], "tokens=-5"),
    "no policy": (["eval", "model", "--policies", ""], "no cache policy is given"),
    "table over a folder": (["eval", "model", "--out", "model"], "--out model is a folder"),
    "table below a file": (["eval", "model", "--out", "text.txt/table.json"], "text.txt is a file"),
    "unknown language": (["data", "chronicle", "--language", "fr", "--out", "w"], "fr"),
    "negative chronicle": (["data", "chronicle", "--tokens", "-5", "--out", "w"], "--tokens -5: it must be at least 1"),
    "chronicle over a file": (["data", "chronicle", "--out", "text.txt"], "text.txt is a file: give a folder"),
    "unknown task": (["data", "tasks", "--task", "kvs", "--out", "w.jsonl"], "unknown task 'kvs': known are passkey"),
    "unknown option of a task": (
        ["data", "tasks", "--task", "kv", "--task.key=hex", "--out", "w"],
        "kv has no option 'key'",
    ),
    "no rows": (["data", "tasks", "--task", "kv", "--count", "0", "--out", "w"], "--count 0: it must be at least 1"),
    "rows of nothing": (["data", "inspect", "no.jsonl"], "no.jsonl does not exist. Check the path; a file must end in"),
    "negative rows": (["data", "inspect", "text.txt", "--rows", "-1"], "--rows -1: it must be at least 0"),
    "unknown objective of rows": (
        ["data", "inspect", "text.txt", "--tokenizer", "model", "--objective", "dpo"],
        "objective dpo is unknown; known are causal_lm, sft",
    ),
    "options of no objective": (["data", "inspect", "text.txt", "--objective.z_loss=1"], "give --objective, too"),
    "wrong option of an objective": (
        ["data", "inspect", "text.txt", "--objective", "causal_lm", "--objective.z_los=1"],
        "did you mean objective.z_loss?",
    ),
    "a tokenizer without a mask": (
        ["data", "inspect", "text.txt", "--tokenizer", "model", "--objective", "masked_lm"],
        "masked_lm needs a control token as mask, cls, sep, and the tokenizer of model has none",
    ),
    "training masks with such a tokenizer": (
        ["train", "recipe.yaml", "objective=masked_lm", "tokenizer={from: model}", "model.mask=bidirectional"],
        "masked_lm needs a control token as mask, cls, sep, and the tokenizer of model has none",
    ),
    "masks of a causal model": (
        ["train", "recipe.yaml", "objective=masked_lm"],
        "mask=causal: this model's tokens see only what comes before them",
    ),
    "next tokens of an encoder": (
        ["train", "recipe.yaml", "model.mask=bidirectional"],
        "use a model with mask=causal or mask=prefix",
    ),
    "next sentences without their head": (
        ["train", "recipe.yaml", "objective=masked_lm", "model.mask=bidirectional"],
        "use head=pretraining, or next_sentence=false",
    ),
    "a dictionary that isn't there": (
        ["data", "inspect", "text.txt", "--objective", "ernie", "--objective.dictionary=names.txt"],
        "dictionary=names.txt can't be read",
    ),
    "dialogues without their head": (
        ["train", "recipe.yaml", "objective=ernie", "model.mask=bidirectional"],
        "use head=pretraining, or dialogue=false",
    ),
    "text for sft": (
        ["data", "inspect", "text.txt", "--tokenizer", "model", "--objective", "sft"],
        "text.txt: a row of kind text, and sft learns from completion, messages",
    ),
    "tokenizer of no folder": (["data", "chronicle", "--tokenizer", "no", "--out", "w"], "no is not a folder"),
    "missing recipe": (["train", "no.yaml"], "no.yaml is not a file: give the path of a recipe"),
    "mistyped key": (["train", "recipe.yaml", "trian.steps=3"], "trian is not a key of a recipe; did you mean train?"),
    "mistyped override": (["train", "recipe.yaml", "steps"], "'steps' is no override: write key.sub=value"),
    "negative size": (["train", "recipe.yaml", "model.width=-8"], "model.width=-8: it must be at least 1"),
    "window too long": (["train", "recipe.yaml", "train.window=64"], "train.window=64 is more than the model's window"),
    "out is a file": (["train", "recipe.yaml", "out=text.txt"], "text.txt is a file: give a folder"),
    "window no longer": (
        ["extend", "model", "--to", "64", "--out", "w"],
        "to=64 is not longer than the model's window, 64",
    ),
    "unknown method": (
        ["extend", "model", "--to", "128", "--out", "w", "--method", "yran"],
        "method='yran' is not known",
    ),
    "unknown option of a method": (
        ["extend", "model", "--to", "128", "--out", "w", "--position.beta=1"],
        "yarn has no option 'beta': known are factor, beta_fast",
    ),
    "mistyped option of a method": (
        ["extend", "model", "--to", "128", "--out", "w", "--positon.beta=1"],
        "there is no option --positon.beta; did you mean --position.beta?",
    ),
    "model over a folder": (["extend", "model", "--to", "128", "--out", "model"], "model exists already"),
    "model over a file": (["extend", "model", "--to", "128", "--out", "text.txt"], "text.txt is a file"),
    "no model to extend": (["extend", "nowhere", "--to", "128", "--out", "w"], "nowhere is not a folder"),
    "longrope without factors": (
        ["extend", "model", "--to", "128", "--out", "w", "--method", "longrope"],
        "longrope needs short_factor and long_factor, 8 numbers each, found by search",
    ),
    "factors that are none": (
        ["extend", "model", "--to", "128", "--out", "w", "--method", "longrope", "--factors", "text.txt"],
        "text.txt is not JSON",
    ),
    "factors without a list": (
        ["extend", "model", "--to", "128", "--out", "w", "--method", "longrope", "--factors", "model/config.json"],
        "model/config.json must hold short_factor and long_factor",
    ),
    "no file of factors": (
        ["extend", "model", "--to", "128", "--out", "w", "--method", "longrope", "--factors", "no.json"],
        "no.json: No such file",
    ),
    "factors of another method": (
        ["extend", "model", "--to", "128", "--out", "w", "--position.long_factor=[1]"],
        "yarn has no option 'long_factor'",
    ),
    "changes without a recipe": (
        ["extend", "model", "train.steps=3", "--to", "128", "--out", "w"],
        "train.steps=3 belongs to a training run: give its recipe as tune",
    ),
    "no recipe to tune by": (
        ["extend", "model", "--to", "128", "--out", "w", "--tune", "no.yaml"],
        "no.yaml is not a file",
    ),
    "heads that can't be fewer": (
        ["convert", "model", "--kv-heads", "4", "--out", "w"],
        "kv_heads=4: the model has one head for keys and values already",
    ),
    "unknown pooling": (
        ["convert", "model", "--kv-heads", "1", "--out", "w", "--pooling", "sum"],
        "pooling='sum' is not known; known: mean, first",
    ),
    "out below a file": (["train", "recipe.yaml", "out=text.txt/run"], "text.txt/run can't be written"),
}


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(case: str, run: Run, tmp_path: Path) -> None:
    arguments, says = MISTAKES[case]
    before = sorted(path for path in tmp_path.rglob("*"))
    ran = run(*arguments)
    assert ran.code == 2, ran.err
    lines = [line for line in ran.err.splitlines() if line.startswith("handscroll: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in ran.err
    assert sorted(path for path in tmp_path.rglob("*")) == before


BAD_CORPORA = {
    "empty": (b"", "the corpus is empty"),
    "binary": (b"GIF89a\x00\x00", "is a binary file (byte 0x00 at position 6); give plain text"),
    "wrong encoding": ("天地玄黄".encode("gb18030"), "is not UTF-8: byte 0x"),
    "shorter than a window": (b"The fox.", "fewer than one window of 32"),
}


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("case", BAD_CORPORA)
def test_a_bad_corpus_is_one_line(case: str, run: Run, tmp_path: Path) -> None:
    content, says = BAD_CORPORA[case]
    (tmp_path / "text.txt").write_bytes(content)
    ran = run("train", "recipe.yaml", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert not (tmp_path / "run").exists()


def test_a_truncated_checkpoint_is_named(run: Run, tmp_path: Path) -> None:
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    ran = run("generate", "model", "The")
    assert ran.code == 2
    assert "model/model.safetensors is not a whole safetensors file" in ran.err


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(name: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "model" / name).unlink()
    ran = run("eval", "model")
    assert ran.code == 2
    assert name in ran.err


def test_a_tokenizer_of_another_model_is_refused(run: Run, tmp_path: Path) -> None:
    Tokenizer.train(["other words for another model, many of them: " + "fox dog " * 30], 265).save(tmp_path / "model")
    ran = run("generate", "model", "The")
    assert ran.code == 2
    assert "the tokenizer has 265 tokens and model embeddings for 300: they don't belong together" in ran.err


@pytest.mark.usefixtures("recipe")
def test_a_truncated_checkpoint_of_a_run_is_named(run: Run, tmp_path: Path) -> None:
    assert run("train", "recipe.yaml", "train.steps=2").code == 0
    state = tmp_path / "run" / "step-000002" / "state.json"
    state.write_text(state.read_text()[:-30])
    ran = run("train", "recipe.yaml", "train.steps=2", "--resume")
    assert ran.code == 2
    assert "step-000002 can't be read" in ran.err


@pytest.mark.usefixtures("recipe")
def test_another_recipe_is_not_resumed(run: Run) -> None:
    assert run("train", "recipe.yaml", "train.steps=2").code == 0
    ran = run("train", "recipe.yaml", "train.steps=2", "model.width=64", "--resume")
    assert ran.code == 2
    assert "model.width was 32 in run/recipe.yaml and is 64 now" in ran.err


@pytest.mark.usefixtures("recipe")
def test_what_cannot_fit_is_refused_with_the_numbers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handscroll.model.footprint.available_memory", lambda device="cpu": 100_000)
    ran = run("train", "recipe.yaml")
    assert ran.code == 2
    assert "but 100.0 kB of memory is free" in ran.err


@pytest.mark.parametrize("arguments", [["--debug"], []])
def test_debug_shows_where_a_mistake_was_found(
    arguments: list[str], run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not arguments:
        monkeypatch.setenv("HANDSCROLL_DEBUG", "1")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        run(*arguments, "generate", "nowhere", "The")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["trian"], "trian"), (["train"], "RECIPE.yaml"), (["generate", "model", "The", "--seeds", "3"], "--seed")],
)
def test_what_is_no_command_is_refused(arguments: list[str], says: str, run: Run) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert says in ran.err


def test_a_failure_of_the_machine_has_another_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "w/text.txt")

    monkeypatch.setattr("handscroll.text.chronicle.export", full_disk)
    ran = run("data", "chronicle", "--tokens", "100", "--out", "w")
    assert ran.code == 1
    assert ran.err == "handscroll: w/text.txt: No space left on device\n"


def test_errors_leave_stdout_to_scripts(run: Run) -> None:
    ran = run("generate", "model", "The", "--json", "--temperature", "-1")
    assert (ran.code, ran.out) == (2, "")
    assert json.loads(run("generate", "model", "The", "--json", "--max-new-tokens", "1").out)
