"""Every verb does its work, prints JSON and nothing else when asked, and can be stopped and resumed."""

import io
import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import handscroll
from handscroll.recipes.events import Advance, Event, Finished, Said
from handscroll.text import read_rows

Run = Callable[..., Any]
EXAMPLES = Path(__file__).parents[2] / "examples"

KILLED = """
import os, signal, torch
from handscroll.cli import main, train
from handscroll.cli.display import Lines
torch.set_num_threads(1)
def kill(self, event):
    if event.done == 7:
        os.kill(os.getpid(), signal.SIGKILL)
Lines.advance = kill
main()
"""

KILLED_READING = """
import os, signal, torch
from handscroll.cli import main
from handscroll.cli.display import Lines
from handscroll.recipes import read
torch.set_num_threads(1)
read.SAVE_EVERY, read.SAVING = 0, 1e9
def kill(self, event):
    if event.done == 8192:
        os.kill(os.getpid(), signal.SIGKILL)
Lines.advance = kill
main()
"""


def test_train_leaves_a_model_and_says_where(run: Run, recipe: Path) -> None:
    ran = run("train", "recipe.yaml", "train.steps=3", "optimizer.learning_rate=1e-2")
    assert ran.code == 0
    assert "training: 3 of 3 steps" in ran.out
    assert "handscroll generate run/model" in ran.out
    assert len((recipe.parent / "run" / "log.jsonl").read_text().splitlines()) == 3
    assert handscroll.load("run/model").model.config.width == 32


def test_train_prints_its_last_step_as_json(run: Run, recipe: Path) -> None:
    ran = run("train", "recipe.yaml", "train.steps=2", "--json")
    result = json.loads(ran.out)
    assert (result["step"], result["out"], result["model"]) == (2, "run", "run/model")
    assert "training: 2 of 2 steps" in ran.err


def test_a_killed_training_goes_on_to_the_same_result(run: Run, recipe: Path, tmp_path: Path) -> None:
    assert run("train", "recipe.yaml", "out=whole").code == 0
    killed = subprocess.run([sys.executable, "-c", KILLED, "train", "recipe.yaml"], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    again = run("train", "recipe.yaml")
    assert again.code == 2
    assert "run already holds a run (step-000005): resume it" in again.err
    assert run("train", "recipe.yaml", "--resume").code == 0
    whole, resumed = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("whole", "run"))
    assert all(resumed[name].equal(tensor) for name, tensor in whole.items())


def test_examples_run_one_after_the_other(run: Run) -> None:
    assert run("data", "chronicle", "--tokens", "3000", "--out", "chronicle").code == 0
    small = ["model.width=32", "model.layers=1", "model.head_width=16", "model.window=128", "tokenizer.vocab_size=300"]
    trained = run("train", str(EXAMPLES / "pretrain.yaml"), *small, "train.steps=1", "train.windows_per_step=2")
    assert trained.code == 0, trained.err
    chatty = run("train", str(EXAMPLES / "chat.yaml"), "train.epochs=null", "train.steps=1", "train.windows_per_step=2")
    assert chatty.code == 0, chatty.err
    assert run("generate", "runs/chat/model", "Where does Anna Berg live?", "--chat").code == 0
    short = ["train.steps=1", "train.windows_per_step=1"]
    trained = run("train", str(EXAMPLES / "extend.yaml"), *short, "model.stretch.to=256")
    assert trained.code == 0, trained.err
    tune = ["--tune", str(EXAMPLES / "extend.yaml"), *short, "out=runs/tune"]
    extended = run("extend", "runs/pretrain/model", "--to", "256", "--out", "runs/long", *tune)
    assert extended.code == 0, extended.err
    tune = ["--tune", str(EXAMPLES / "convert.yaml"), *short]
    converted = run("convert", "runs/pretrain/model", "--kv-heads", "1", "--out", "runs/multi-query", *tune)
    assert converted.code == 0, converted.err


def test_the_bert_example_hides_learns_and_fills(run: Run) -> None:
    people = ["data", "tasks", "--task", "chronicle", "--tokens", "60", "--questions", "2", "--count", "40"]
    assert run(*people, "--language", "en", "--restated", "--out", "people.jsonl").code == 0
    looked = run("data", "inspect", "people.jsonl", "--objective", "masked_lm", "--objective.masked=0.4")
    assert looked.code == 0, looked.err
    assert re.search(r"people.jsonl:1: messages, \d+ tokens, \d+ learnt, next [01], parts 2", looked.out)
    assert "\u27e6<|mask|>\u2192" in looked.out
    result = json.loads(run("data", "inspect", "people.jsonl", "--objective", "masked_lm", "--json").out)
    first = result["shown"][0]
    hidden = [piece for piece in first["views"][0] if piece["supervised"]]
    assert hidden
    assert all(piece["hides"] for piece in hidden)
    assert first["labels"]["parts"] == [2]
    assert "supervised_tokens" not in result
    assert json.loads(run("data", "inspect", "people.jsonl", "--objective", "masked_lm", "--json").out) == result
    small = ["model.width=16", "model.layers=1", "model.heads=2", "tokenizer.vocab_size=300", "train.steps=2"]
    trained = run("train", str(EXAMPLES / "bert.yaml"), *small, "train.windows_per_step=2", "data.held_out=0.1")
    assert trained.code == 0, trained.err
    assert 'handscroll fill runs/bert/model "Once upon a <|mask|>."' in trained.out
    assert re.search(r"mlm_accuracy 0\.\d+, nsp_accuracy [01]\.\d+, alone [01]\.\d+", trained.out.replace("\n", " "))
    line = json.loads(Path("runs/bert/log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert line["terms"].keys() == {"mlm", "nsp"}
    shares = {"mlm_accuracy", "nsp_accuracy", "alone"}
    assert line["metrics"].keys() == line["evaluation"]["metrics"].keys() == shares
    filled = run("fill", "runs/bert/model", "She lives in <|mask|>.", "--json")
    assert filled.code == 0, filled.err


def test_the_ernie_example_hides_whole_names_and_judges(run: Run) -> None:
    people = ["data", "tasks", "--task", "chronicle", "--tokens", "60", "--questions", "2", "--count", "40"]
    assert run(*people, "--restated", "--out", "people.jsonl").code == 0
    Path("names.txt").write_text("鼓乐\n", encoding="utf-8")
    inspect = ["data", "inspect", "people.jsonl", "--objective", "ernie", "--objective.masked=0.4", "--rows", "8"]
    looked = run(*inspect, "--objective.dictionary=names.txt")
    assert looked.code == 0, looked.err
    assert re.search(r"people.jsonl:1: messages, \d+ tokens, \d+ learnt, fake [01], entities \d+, straddl", looked.out)
    result = json.loads(run(*inspect, "--json").out)
    levels = {piece.get("level") for row in result["shown"] for piece in row["views"][0] if piece["supervised"]}
    assert levels == {"token", "phrase", "entity"}
    small = ["model.width=16", "model.layers=1", "model.heads=2", "tokenizer.vocab_size=300", "train.steps=2"]
    given = [*small, "train.windows_per_step=2", "data.held_out=0.1", "objective.dictionary=names.txt"]
    trained = run("train", str(EXAMPLES / "ernie.yaml"), *given)
    assert trained.code == 0, trained.err
    line = json.loads(Path("runs/ernie/log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert line["terms"].keys() == {"mlm", "dialogue"}
    accuracies = {f"{name}_accuracy" for name in ("token", "phrase", "entity", "dialogue")}
    assert line["metrics"].keys() == line["evaluation"]["metrics"].keys()
    assert line["metrics"].keys() == accuracies | {"without_entity", "alone", "fakes", "straddling"}


def test_the_lossless_example_runs(run: Run) -> None:
    written = ["data", "tasks", "--task", "chronicle", "--tokens", "340", "--questions", "6", "--count", "4"]
    ran = run(*written, "--restated", "--out", "lossless.jsonl")
    assert ran.code == 0, ran.err
    new = "model={width: 16, layers: 3, heads: 2, window: 512}"
    small = [
        new,
        "tokenizer={vocab_size: 300}",
        "train.windows_per_step=2",
        "train.steps=1",
        "train.skip_positions=null",
    ]
    ran = run("train", str(EXAMPLES / "lossless.yaml"), *small, "out=first")
    assert ran.code == 0, ran.err
    ran = run("train", str(EXAMPLES / "lossless.yaml"), "model.from=first/model", "train.steps=1")
    assert ran.code == 0, ran.err
    assert handscroll.load("runs/lossless/model").model.config.max_positions == 204_800


def test_extend_leaves_a_model_with_a_longer_window(run: Run, tmp_path: Path) -> None:
    ran = run("extend", "model", "--to", "256", "--out", "a long one", "--position.beta_fast=16")
    assert ran.code == 0, ran.err
    assert "window 64 -> 256 tokens (4 times), positions yarn" in ran.out
    assert "handscroll eval 'a long one' --suite perplexity --policies full --tokens 256" in ran.out
    config = handscroll.load("a long one").model.config
    assert (config.max_positions, config.position.beta_fast) == (256, 16.0)  # type: ignore[attr-defined]
    assert (tmp_path / "a long one" / "model.safetensors").read_bytes() == (
        tmp_path / "model" / "model.safetensors"
    ).read_bytes()


def test_extend_prints_json_and_reads_factors(run: Run, tmp_path: Path) -> None:
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    (tmp_path / "factors.json").write_text(json.dumps(factors), encoding="utf-8")
    ran = run(
        "extend", "model", "--to", "256", "--method", "longrope", "--factors", "factors.json", "--out", "long", "--json"
    )
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {"model": "model", "out": "long", "method": "longrope", "window": 64, "to": 256}
    assert handscroll.load("long").model.config.position.long_factor == (2.0,) * 8  # type: ignore[attr-defined]


def test_extend_tunes_with_the_recipe_of_another_model(run: Run, recipe: Path, tmp_path: Path) -> None:
    tune = ["extend", "model", "--to", "128", "--method", "linear", "--out", "long", "--tune", "recipe.yaml"]
    ran = run(*tune, "train.steps=3")
    assert ran.code == 0, ran.err
    assert "tuning: 3 of 3 steps" in ran.out
    before, after = (load_file(tmp_path / out / "model.safetensors") for out in ("model", "long"))
    assert all(not after[name].equal(tensor) for name, tensor in before.items())
    assert handscroll.load("long").model.config.max_positions == 128


def test_convert_pools_heads_and_tells_what_is_saved(run: Run, recipe: Path, tmp_path: Path) -> None:
    ran = run("train", "recipe.yaml", "train.steps=1", "model.kv_heads=2", "out=many")
    assert ran.code == 0, ran.err
    ran = run("convert", "many/model", "--kv-heads", "1", "--out", "few", "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["kv_heads"] == {"before": 2, "after": 1}
    assert result["cache_bytes"]["before"] == 2 * result["cache_bytes"]["after"]
    before, after = (load_file(tmp_path / out / "model.safetensors") for out in ("many/model", "few"))
    name = "model.layers.0.self_attn.v_proj.weight"
    torch.testing.assert_close(after[name], before[name].unflatten(0, (2, -1)).mean(0))
    ran = run("convert", "many/model", "--kv-heads", "1", "--out", "tuned", "--tune", "recipe.yaml", "train.steps=2")
    assert ran.code == 0, ran.err
    assert "kv heads 2 -> 1 (pooling mean); keys and values of" in ran.out
    assert "tuning: 2 of 2 steps" in ran.out
    assert "handscroll eval tuned --suite perplexity --policies full" in ran.out
    assert handscroll.load("tuned").model.config.num_kv_heads == 1


def test_generate_prints_the_continuation_alone(run: Run) -> None:
    ran = run("generate", "model", "The quick", "--max-new-tokens", "9")
    assert ran.code == 0
    assert ran.err == ""
    tokens = handscroll.generate(*handscroll.load("model"), "The quick", max_new_tokens=9)
    assert ran.out == "".join(token.text for token in tokens) + "\n"


def test_generate_prints_json(run: Run) -> None:
    ran = run("generate", "model", "The quick", "--max-new-tokens", "4", "--json", "--cache.window=20")
    result = json.loads(ran.out)
    assert len(result["tokens"]) == 4
    assert result["cache"] == {"policy": "block_memory", "window": 20}
    tokenizer = handscroll.load("model").tokenizer
    is_stopped = result["tokens"][-1] in tokenizer.stop_ids
    assert result["stopped_by"] == ("stop token" if is_stopped else "max_new_tokens")
    assert result["prompt_tokens"] == len(tokenizer.encode("The quick"))


def test_options_of_decoding_reach_it(run: Run) -> None:
    """Every option of the command line is that of Python by the same name."""
    given = {
        "temperature": 1.3,
        "seed": 4,
        "top_k": 60,
        "top_p": 0.97,
        "min_p": 0.001,
        "typical": 0.98,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.1,
        "no_repeat_ngram": 2,
        "max_new_tokens": 12,
        "best_of": 2,
    }
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    bias = ["--logit-bias", "290=4", "--logit-bias", "40=-inf"]
    result = json.loads(run("generate", "model", "The fox", *words, *bias, "--logprobs", "2", "--json").out)
    loaded = handscroll.load("model")
    tokens = list(handscroll.generate(*loaded, "The fox", logit_bias={290: 4.0, 40: -math.inf}, logprobs=2, **given))
    assert result["tokens"] == [token.id for token in tokens]
    assert [each["logprob"] for each in result["logprobs"]] == [token.logprobs.chosen for token in tokens]
    assert [len(each["best"]) for each in result["logprobs"]] == [2] * len(tokens)
    beams = json.loads(
        run(
            "generate", "model", "The", "--beams", "3", "--length-penalty", "0.5", "--early-stopping", "never", "--json"
        ).out
    )
    searched = handscroll.generate(*loaded, "The", beams=3, length_penalty=0.5, early_stopping="never")
    assert beams["tokens"] == [token.id for token in searched]


def test_a_text_ends_before_a_stop_string_and_at_a_stop_token(run: Run) -> None:
    free = json.loads(run("generate", "model", "The", "--max-new-tokens", "20", "--json").out)
    text = free["text"]
    stop = text[len(text) // 2 :][:3]
    ran = run("generate", "model", "The", "--max-new-tokens", "20", "--stop", "never said", "--stop", stop)
    assert ran.out == text[: text.index(stop)] + "\n"
    ended = json.loads(run("generate", "model", "The", "--stop-id", str(free["tokens"][4]), "--json").out)
    assert ended["tokens"] == free["tokens"][: free["tokens"].index(free["tokens"][4]) + 1]
    assert ended["stopped_by"] == "stop token"


def test_options_of_a_policy_follow_with_a_dot(run: Run) -> None:
    text = "The quick brown fox jumps over the lazy dog"
    options = ["--max-new-tokens", "12", "--json", "--cache", "sliding_window"]
    ran = [
        json.loads(run("generate", "model", text, *options, *given).out)
        for given in (["--cache.window=2"], ["--cache.window", "2"], [])
    ]
    assert ran[0]["tokens"] == ran[1]["tokens"] != ran[2]["tokens"]


def test_generate_reads_a_file_or_stdin(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def tokens(*arguments: str) -> list[int]:
        ran = run("generate", "model", *arguments, "--max-new-tokens", "5", "--json")
        assert ran.code == 0, ran.err
        return list(json.loads(ran.out)["tokens"])

    (tmp_path / "book.txt").write_text("The lazy dog.\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("The lazy dog.\nA fox"))
    assert tokens("-") == tokens("A fox", "--file", "book.txt") == tokens("The lazy dog.\nA fox")
    assert tokens("--file", "book.txt") == tokens("The lazy dog.\n")


def test_a_long_file_is_read_with_a_word_on_the_way(run: Run, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("The quick brown fox jumps. " * 500, encoding="utf-8")
    ran = run("generate", "model", "Who?", "--file", "book.txt", "--max-new-tokens", "2", "--chat")
    assert ran.code == 0
    assert "reading: " in ran.err


def test_a_book_is_read_once_and_asked_later(run: Run, tmp_path: Path) -> None:
    (tmp_path / "more.md").write_text("A lazy fox. " * 50, encoding="utf-8")
    ran = run("read", "model", "text.txt", "more.md", "--save", "memories/book.memory", "--cache.blocks=1", "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["bytes"] == (tmp_path / "memories" / "book.memory").stat().st_size
    assert result["cache"] == {"policy": "block_memory", "blocks": 1}
    questions, options = ["Who jumps?", "谁?"], ["--max-new-tokens", "6", "--json"]
    of_memory = json.loads(run("ask", "model", *questions, "--memory", "memories/book.memory", *options).out)
    files = ["--file", "text.txt", "--file", "more.md", "--cache.blocks=1"]
    of_files = json.loads(run("ask", "model", *questions, *files, *options).out)
    assert of_memory["tokens_read"] == of_files["tokens_read"] == result["tokens"]
    for one, other, question in zip(of_memory["answers"], of_files["answers"], questions, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
        assert one["question"] == question
        assert 1 <= len(one["tokens"]) <= 6
        assert one["passages"]
    # Each question is asked as if it were the only one, and its answer alone is printed.
    alone = run("ask", "model", questions[1], "--memory", "memories/book.memory", "--max-new-tokens", "6")
    assert alone.out.strip() == of_memory["answers"][1]["answer"]
    assert alone.err == ""


def test_a_killed_reading_goes_on_to_the_same_memory(run: Run, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text((tmp_path / "text.txt").read_text(encoding="utf-8") * 6, encoding="utf-8")
    command = ["read", "model", "book.txt", "--save"]
    assert run(*command, "whole.memory").code == 0
    killed = subprocess.run([sys.executable, "-c", KILLED_READING, *command, "book.memory"], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    asked = run("ask", "model", "Who?", "--memory", "book.memory")
    assert asked.code == 2
    assert "book.memory holds 4,096 of " in asked.err
    assert "book.memory exists already: ask it, go on with it (--resume)" in run(*command, "book.memory").err
    other = run("read", "model", "text.txt", "--save", "book.memory", "--resume")
    assert "book.memory is the memory of another text" in other.err
    other = run(*command, "book.memory", "--resume", "--cache", "full")
    assert "remembers by {'policy': 'block_memory'}, not by {'policy': 'full'}" in other.err
    resumed = run(*command, "book.memory", "--resume")
    assert resumed.code == 0, resumed.err
    answers = [
        json.loads(run("ask", "model", "Who?", "--memory", name, "--json").out)["answers"][0] | {"seconds": 0}
        for name in ("whole.memory", "book.memory")
    ]
    assert answers[0] == answers[1]
    whole, book = (load_file(tmp_path / name) for name in ("whole.memory", "book.memory"))
    assert whole.keys() == book.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(book[name], tensor, atol=1e-5, rtol=0)
    # What is read to its end has nothing to go on with.
    before = (tmp_path / "book.memory").read_bytes()
    assert run(*command, "book.memory", "--resume").code == 0
    assert (tmp_path / "book.memory").read_bytes() == before


def test_eval_compares_policies(run: Run, tmp_path: Path) -> None:
    short = ["--tokens", "300", "--suite.questions=1", "--out", "tables/recall.json"]
    ran = run("eval", "model", "--policies", "full,block_memory", *short)
    assert ran.code == 0, ran.err
    assert "block_memory" in ran.out
    assert "wrote tables/recall.json" in ran.out
    written = json.loads((tmp_path / "tables" / "recall.json").read_text(encoding="utf-8"))
    assert [row["policy"] for row in written["rows"]] == ["full", "block_memory"]


def test_eval_prints_json_and_takes_policies_with_options(run: Run) -> None:
    policies = "[full, {policy: sliding_window, window: 8}]"
    ran = run("eval", "model", "--suite", "perplexity", "--tokens", "100", "--policies", policies, "--json")
    result = json.loads(ran.out)
    assert result["suite"] == "perplexity"
    assert {"full", "sliding_window window=8"} < result["rows"][0].keys()
    assert "full: reading: 100 of 100 tokens" in ran.err


def test_eval_of_several_suites_and_lengths_writes_a_folder_and_goes_on(run: Run, tmp_path: Path) -> None:
    command = ["eval", "model", "--suite", "passkey,perplexity", "--lengths", "1k,600", "--language", "en"]
    command += ["--policies", "full,sliding_window", "--questions", "2", "--suite.max_new_tokens=2", "--out", "longer"]
    command += ["--suite.full_limit=700"]
    ran = run(*command)
    assert ran.code == 0, ran.err
    for shown in ("passkey en", "1,024", "not read: over full_limit=700", "Perplexity", "Cost of a reading"):
        assert shown in ran.out
    written = json.loads((tmp_path / "longer" / "results.json").read_text(encoding="utf-8"))
    assert {row["length"] for row in written["records"]} == {1024, 600}
    assert {path.name for path in (tmp_path / "longer").iterdir()} == {
        "results.json",
        "index.html",
        "heat-passkey.svg",
        "quality-passkey.svg",
    }
    again = run(*command, "--json")
    result = json.loads(again.out)
    assert result["records"] == written["records"]
    assert "holds 8 of 8 results" in again.err
    other = run(*command, "--seed", "1")
    assert other.code == 2
    assert "another --out" in other.err


def test_eval_of_one_suite_of_tasks_shows_its_table(run: Run) -> None:
    ran = run(
        *("eval", "model", "--suite", "qa", "--tokens", "700", "--policies", "sliding_window", "--json"),
        *("--language", "zh", "--questions", "1", "--suite.max_new_tokens=2"),
    )
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["rows"]
    kinds = ("one_hop", "two_hops", "aggregation", "time_order", "unanswerable")
    assert [row["task"] for row in rows] == [f"qa: {kind} zh" for kind in kinds]
    assert all(row["seconds reading"] > 0 and row["device MB"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--tokens", "5", "--lengths", "5"], "--lengths are several"),
        (["--lengths", "4x"], "the length '4x' is not understood"),
        (["--lengths", ""], "lengths are []"),
        (["--suite", "recall,iq"], "unknown suite 'iq'"),
        (["--suite", "kv,qa", "--suite.promt=with"], "no suite has the option 'promt'"),
        (["--suite", "kv", "--suite.prompt=during"], "prompt='during'"),
        (["--tokens", "0"], "tokens=0"),
        (["--questions", "-2"], "questions=-2: at least 1"),
        (["--suite", "perplexity", "--suite.window=wide"], "window='wide': Input should be a valid integer"),
        (["--suite", "perplexity,recall", "--suite.full_limit=far"], "full_limit='far': Input should be"),
    ],
)
def test_eval_names_mistakes(run: Run, options: list[str], told: str) -> None:
    ran = run("eval", "model", *options)
    assert ran.code == 2
    assert told in ran.err


def test_chronicle_is_written(run: Run, tmp_path: Path) -> None:
    ran = run("data", "chronicle", "--tokens", "900", "--seed", "7", "--language", "zh", "--out", "world", "--json")
    result = json.loads(ran.out)
    text = (tmp_path / "world" / "text.txt").read_text(encoding="utf-8")
    assert result["languages"] == ["zh"]
    assert result["tokens"] >= 900
    assert result["characters"] == len(text)
    counted = run("data", "chronicle", "--tokens", "900", "--tokenizer", "model", "--out", "counted", "--json")
    tokens = len(handscroll.load("model").tokenizer.encode((tmp_path / "counted" / "text.txt").read_text("utf-8")))
    assert json.loads(counted.out)["tokens"] == pytest.approx(tokens, rel=0.01)
    assert tokens >= 900


def test_tasks_are_written_as_chats(run: Run, tmp_path: Path) -> None:
    pairs = ["--task", "kv", "--task.keys=words", "--task.values", "numbers", "--tokens", "400", "--tokenizer", "model"]
    ran = run("data", "tasks", *pairs, "--count", "4", "--out", "tasks/kv.jsonl", "--json")
    assert json.loads(ran.out) == {
        "out": "tasks/kv.jsonl", "task": "kv", "rows": 4, "tokens": 400, "languages": ["en", "zh"],
    }  # fmt: skip
    rows = read_rows(tmp_path / "tasks" / "kv.jsonl")
    tokenizer = handscroll.load("model").tokenizer
    for row in rows:
        context, _, question = row["messages"][0]["content"].rpartition("\n")
        assert 340 <= len(tokenizer.encode(context)) <= 400
        key = question.removeprefix("What is the value of ").removesuffix("?").removesuffix("的值是什么？")
        assert f'"{key}": "{row["messages"][1]["content"]}"' in context
    assert len(rows) == 4


ROWS = [
    {"messages": [{"role": "user", "content": "Who jumps?"}, {"role": "assistant", "content": "The \x1b[31m fox."}]},
    {"text": "The quick brown fox."},
    {"prompt": "The", "chosen": " quick", "rejected": " lazy"},
]


def test_rows_are_shown_as_the_model_sees_them(run: Run, tmp_path: Path) -> None:
    broken = [*(json.dumps(row) for row in ROWS), '{"body": 1}']
    (tmp_path / "rows.jsonl").write_text("\n".join(broken), encoding="utf-8")
    first = run("data", "inspect", "rows.jsonl", "--tokenizer", "model")
    assert (first.code, first.out) == (2, "")
    assert "handscroll: rows.jsonl:4: the columns are 'body'; known are: messages; chosen, rejected;" in first.err
    shown = run("data", "inspect", "rows.jsonl", "--tokenizer", "model", "--skip-bad", "--rows", "2").out
    assert "rows.jsonl:1: messages, " in shown
    assert "<|user|>Who jumps?<|end|><|assistant|>\u27e6The \u241b[31m fox.<|end|>\u27e7\n" in shown
    assert "rows.jsonl:3" not in shown.split("longest")[0]
    assert "3 rows: 1 messages, 1 text, 1 preference" in shown
    assert "1 bad rows left out, the first of them:\n  rows.jsonl:4: the columns are 'body'" in shown
    asked = run("data", "inspect", "rows.jsonl", "--tokenizer", "model", "--skip-bad", "--json")
    result = json.loads(asked.out)
    tokenizer = handscroll.load("model").tokenizer
    assert [row["kind"] for row in result["shown"]] == ["messages", "text", "preference"]
    assert result["shown"][1]["tokens"] == len(tokenizer.encode("The quick brown fox.")) + 1
    assert result["skipped"]["count"] == 1
    sft = json.loads(run("data", "inspect", "rows.jsonl", "--tokenizer", "model", "--objective", "sft",
                         "--skip-bad", "--json").out)  # fmt: skip
    assert (sft["kinds"], sft["skipped"]["count"]) == ({"messages": 1}, 3)
    plain = run("data", "inspect", "text.txt")
    assert "--tokenizer MODEL counts and shows tokens" in plain.out


def test_bad_rows_are_skipped_in_training(run: Run, recipe: Path, tmp_path: Path) -> None:
    rows = [json.dumps(ROWS[1])] * 60
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, '{"text": ']), encoding="utf-8")
    short = [str(recipe), "data.files=rows.jsonl", "train.steps=1"]
    assert "rows.jsonl:61: not valid JSON" in run("train", *short).err
    ran = run("train", *short, "--skip-bad")
    assert ran.code == 0
    assert "left out 1 bad rows:\n  rows.jsonl:61: not valid JSON" in ran.out
    assert "tokenizing: " in ran.out


def test_train_learns_from_tasks(run: Run, tmp_path: Path) -> None:
    assert run("data", "tasks", "--task", "passkey", "--tokens", "200", "--count", "8", "--out", "keys.jsonl").code == 0
    small = ["model.width=32", "model.layers=1", "model.head_width=16", "model.window=512", "tokenizer.vocab_size=300"]
    assert run("train", str(EXAMPLES / "pretrain.yaml"), *small, "data.files=text.txt", "train.steps=1").code == 0
    chats = ["data.files=keys.jsonl", "train.epochs=null", "train.steps=1", "train.windows_per_step=2"]
    trained = run("train", str(EXAMPLES / "chat.yaml"), *chats)
    assert trained.code == 0, trained.err


@pytest.fixture
def quickstart(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the real run, which takes minutes; what it was called with is put into the list."""
    module = pytest.importorskip("handscroll.recipes.quickstart")
    called: list[Any] = []

    def stand_in(options: Any) -> Iterator[Event]:
        called.append(options)
        yield Said("writing a chronicle")
        yield Advance("reading", 5, 10, "tokens", 100.0)
        yield Advance("reading", 10, 10, "tokens", 100.0, "nearly")
        figures = {"recall": 0.975, "recall_beyond_window": 0.97, "perplexity": 9.5, "device_bytes": 3_000_000}
        more = {"host_bytes": 0, "seconds": 12.5, "tokens": 131072}
        yield Finished({"policies": {"block_memory": figures | more}}, ("handscroll eval quickstart/model",))

    monkeypatch.setattr(module, "quickstart", stand_in)
    return called


def test_quickstart_passes_its_options_on(run: Run, quickstart: list[Any]) -> None:
    ran = run("quickstart", "--corpus", "a.txt", "b.md", "--minutes", "2", "--corpus=c.txt", "--out", "novel", "--full")
    assert ran.code == 0, ran.err
    [options] = quickstart
    assert options.corpus == (Path("a.txt"), Path("b.md"), Path("c.txt"))
    assert (options.minutes, options.out, options.full, options.resume) == (2.0, Path("novel"), True, False)


def test_quickstart_has_the_recipes_own_defaults(run: Run, quickstart: list[Any]) -> None:
    assert run("quickstart").code == 0
    [options] = quickstart
    assert options == type(options)(out=Path("quickstart"))


def test_quickstart_shows_its_result(run: Run, quickstart: list[Any]) -> None:
    shown = run("quickstart").out
    for part in ("writing a chronicle", "reading: 10 of 10 tokens, 100 tokens/s", "97.5 %", "131,072", "eval quick"):
        assert part in shown
    ran = run("quickstart", "--json")
    assert json.loads(ran.out)["policies"]["block_memory"]["recall"] == 0.975
    assert "writing a chronicle" in ran.err


def test_help_of_every_verb_explains_every_option(run: Run) -> None:
    for verb in (
        ["quickstart"],
        ["data", "chronicle"],
        ["data", "tasks"],
        ["train"],
        ["extend"],
        ["generate"],
        ["chat"],
        ["read"],
        ["ask"],
        ["eval"],
    ):
        shown = run(*verb, "--help").out
        assert "Examples:" in shown
        options = shown.split("Options:\n")[1].split("\n")
        unexplained = [line for line in options if line.startswith("  -") and not re.search(r"\S {2,}\S", line)]
        assert unexplained == []


def test_help_and_version_load_no_torch() -> None:
    for flag in ("--help", "--version"):
        code = f"""
import sys
from handscroll.cli import main
sys.argv = ["handscroll", {flag!r}]
try:
    main()
except SystemExit:
    assert "torch" not in sys.modules and "pydantic" not in sys.modules and "rich" not in sys.modules
"""
        shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        assert "handscroll" in shown


def test_an_interruption_says_how_to_go_on(run: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("handscroll.recipes.train.train", interrupted)
    monkeypatch.setattr("handscroll.recipes.extend.extend", interrupted)
    extend = ["extend", "model", "--to", "128", "--out", "long"]
    for command in (["train", "recipe.yaml"], [*extend, "--tune", "recipe.yaml"]):
        ran = run(*command)
        assert ran.code == 130
        assert ran.err == "handscroll: interrupted; the same command with --resume goes on\n"
    assert run(*extend).err == "handscroll: interrupted\n"
    monkeypatch.setattr("handscroll.recipes.evaluate.evaluate", interrupted)
    battery = ["eval", "model", "--suite", "kv", "--lengths", "600"]
    assert run(*battery, "--out", "longer").err == "handscroll: interrupted; the same command goes on\n"
    assert run(*battery).err == "handscroll: interrupted\n"


def test_numbers_and_device_are_chosen_the_same_way_everywhere(run: Run) -> None:
    """The memory of a model in half precision belongs to it alone; what is advised against goes to stderr."""
    half = ("--dtype", "bfloat16", "--device", "cpu")
    generated = run("generate", "model", "The quick", "--max-new-tokens", "2", "--json", *half)
    assert generated.code == 0
    assert generated.err.startswith("handscroll: note: bfloat16 on a CPU takes half the memory of float32")
    assert len(json.loads(generated.out)["tokens"]) == 2
    assert run("read", "model", "text.txt", "--save", "half.memory", *half).code == 0
    assert run("ask", "model", "--memory", "half.memory", "Who?", "--max-new-tokens", "1", *half).code == 0
    other = run("ask", "model", "--memory", "half.memory", "Who?")
    assert other.code == 2
    assert "dtype" in other.err
    measured = ("eval", "model", "--suite", "perplexity", "--policies", "full", "--tokens", "40", "--json")
    assert run(*measured, *half).code == 0
    assert run(*measured, "--dtype", "int8").err == (
        "handscroll: dtype='int8' is not known: choose float32, bfloat16, float16 or auto\n"
    )
