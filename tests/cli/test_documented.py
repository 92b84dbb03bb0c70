"""Every command that the READMEs and docs/ show runs, on a tiny model; what can't run in a test is one that would.

A command is a line of a bash block. Each runs in a folder that has what it names, with words added that make it small
(`SMALLER`: the last of an option's values counts). Those of `NOT_RUN` are parsed: verb, options and their types, and
the recipe with what is changed behind it. Commands within sentences are looked up by verb and options.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

import handscroll
from handscroll.cli import app
from handscroll.model import Transformer
from handscroll.recipes.reading import read_recipe
from handscroll.text.chronicle import export

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Words that make a command small, by how it begins; the first that fits is taken.
ONE_STEP = "train.epochs=null train.steps=1 train.windows_per_step=2"
NEW_MODEL = "model.width=32 model.layers=1 model.head_width=16 model.window=128 tokenizer.vocab_size=300"
BATTERY = "--lengths 300 --questions 1 --language en --suite.max_new_tokens=2"
SMALLER = {
    "handscroll data chronicle": "--tokens 500",
    "handscroll data tasks": "--count 2",
    "handscroll tokenizer train": "--vocab-size 400",
    "handscroll train examples/pretrain.yaml": f"{NEW_MODEL} {ONE_STEP}",
    "handscroll train examples/experts.yaml": f"{NEW_MODEL} {ONE_STEP} model.experts.width=16 data.held_out=0.3",
    "handscroll train examples/bert.yaml": f"model.width=32 model.layers=1 {ONE_STEP}",
    "handscroll train examples/glm.yaml": f"{NEW_MODEL} {ONE_STEP}",
    "handscroll train examples/prefix.yaml": f"{NEW_MODEL} {ONE_STEP}",
    "handscroll fill runs/glm/model": "--max-new-tokens 3",
    "handscroll train examples/ernie.yaml": f"model.width=32 model.layers=1 {ONE_STEP}",
    "handscroll train": ONE_STEP,
    "handscroll extend runs/pretrain/model": f"--to 256 {ONE_STEP}",
    "handscroll extend": "--to 256",
    "handscroll convert runs/pretrain/model --kv-heads 1 --out runs/tuned": ONE_STEP,
    "handscroll generate": "--max-new-tokens 3",
    "handscroll ask": "--max-new-tokens 3",
    "handscroll chat": "--max-new-tokens 3",
    "handscroll eval quickstart/model --suite recall,qa,needle": BATTERY,
    "handscroll eval": "--tokens 300 --language en",
}
# What a command needs to have run before it.
FIRST = {
    "handscroll fill runs/bert/model": "handscroll train examples/bert.yaml",
    "handscroll fill runs/glm/model": "handscroll train examples/glm.yaml",
    "handscroll generate runs/glm/model": "handscroll train examples/glm.yaml",
    "handscroll eval runs/bert/model": "handscroll train examples/bert.yaml",
    "handscroll eval runs/glm/model": "handscroll train examples/glm.yaml",
    "handscroll generate runs/prefix/model": "handscroll train examples/prefix.yaml",
    "handscroll ask": "handscroll read quickstart/model quickstart/document.txt --save document.memory",
    "handscroll train examples/pretrain.yaml --resume": "handscroll train examples/pretrain.yaml",
}
# What no test can run, by what is in it, and why.
NOT_RUN = {
    "make ": "installs and takes minutes; tests/test_project.py looks its targets up",
    "jq ": "is no command of Handscroll",
    "handscroll quickstart": "takes minutes; tests/recipes/test_quickstart.py runs the same on a small scale",
    "Qwen/": "needs the hub",
    "data/": "needs texts that are no part of this repository",
    "--processes": "starts processes; tests/cli/test_train.py does",
    "handscroll compare": "starts a process for each variant; tests/cli/test_compare.py does",
    "--find-lr": "takes 100 steps; tests/cli/test_train.py sweeps",
}
TYPED = "Who jumps?\n/stats\n"


def shown_commands() -> list[str]:
    """Every line of every bash block, once."""
    found: dict[str, None] = {}
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            found.update(dict.fromkeys(block.replace("\\\n", " ").strip().splitlines()))
    return list(found)


def reason_not_to_run(command: str) -> str | None:
    return next((reason for part, reason in NOT_RUN.items() if part in command), None)


def beginning(table: dict[str, str], command: str) -> str | None:
    """The first entry that the command begins with."""
    return next((start for start in table if command.startswith(start)), None)


COMMANDS = shown_commands()
RUN = [command for command in COMMANDS if reason_not_to_run(command) is None]


@pytest.fixture(scope="session")
def named(folder: Path, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands name."""
    place = tmp_path_factory.mktemp("named")
    (place / "examples").symlink_to(ROOT / "examples")
    for model in (
        "quickstart/model",
        "runs/chat/model",
        "runs/continue/model",
        "runs/experts/model",
    ):
        shutil.copytree(folder, place / model)
    shutil.copytree(folder, place / "runs/normalized/model")
    model, tokenizer = handscroll.load(folder)
    many = dataclasses.replace(model.config, num_kv_heads=model.config.num_heads)
    handscroll.save(Transformer(many), tokenizer, place / "runs/pretrain/model")
    for model in ("bert", "minilm"):
        shutil.copytree(encoder_folder, place / model)
    shutil.copytree(folder, place / "novel-tokenizer")
    (place / "sentences.txt").write_text("A cat sleeps.\nStocks fell.\n", encoding="utf-8")
    (place / "books").mkdir()
    for name in ("quickstart/document.txt", "book.txt", "novel.txt", "books/first.txt", "books/second.md"):
        (place / name).write_text("The quick brown fox jumps over the lazy dog. 天地玄黄。 " * 20, encoding="utf-8")
    export(place / "chronicle", seed=0, languages=("en",), size=1500, measure=lambda part: len(part) // 4)
    chat = [{"role": "user", "content": "Who jumps?"}, {"role": "assistant", "content": "The quick brown fox."}]
    for name in ("chats.jsonl", "pairs.jsonl", "gsm8k.jsonl", "people.jsonl"):
        (place / name).write_text((json.dumps({"messages": chat}) + "\n") * 40, encoding="utf-8")
    return place


@pytest.mark.parametrize("command", RUN, ids=str)
def test_a_command_runs(command: str, run: Run, named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(named, tmp_path, symlinks=True, dirs_exist_ok=True)
    for line in (FIRST.get(beginning(FIRST, command) or ""), command):
        if line is None:
            continue
        monkeypatch.setattr(sys, "stdin", io.StringIO(TYPED))
        more = SMALLER.get(beginning(SMALLER, line) or "", "")
        ran = run(*shlex.split(line)[1:], *more.split())
        assert ran.code == 0, f"{line} {more}\n{ran.err}"


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("handscroll ")], ids=str)
def test_a_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)[1:]
    parse(words)
    for recipe in (word for word in words if word.endswith(".yaml")):
        changes = [word for before, word in pairwise(["", *words]) if before != "--vary"]
        read_recipe(Path(recipe), [word for word in changes if re.match(r"[a-z_.]+=", word)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_sentences_name_exists(page: Path) -> None:
    for code in inline_code(page):
        if match := re.match(r"handscroll ([a-z]+(?: [a-z]+)?)\b", code):
            names, missing = options_of(match[1].split()), []
            for option in re.findall(r"(?<=\s)--[a-z-]+(?![a-z.-])", code):
                missing += [option] if option not in names else []
            assert not missing, f"{code}: no {missing}"
        elif match := re.match(r"python (benchmarks/\w+\.py)", code):
            script = (ROOT / match[1]).read_text(encoding="utf-8")
            assert all(f'"{option}"' in script for option in re.findall(r"(?<=\s)--[a-z-]+", code)), code


def test_no_exception_is_left_over() -> None:
    for table in (SMALLER, FIRST):
        used = {beginning(table, command) for command in RUN}
        assert set(table) <= used
    assert all(any(part in command for command in COMMANDS) for part in NOT_RUN)
    assert len(RUN) > 25


def parse(words: list[str]) -> None:
    """As the command line does, without running anything; a word that isn't known is an exception of click's."""
    command: Any = typer.main.get_command(app)
    context, name = None, "handscroll"
    while True:
        context = command.make_context(name, list(words), parent=context)
        if not hasattr(command, "commands"):
            return
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


def options_of(words: list[str]) -> set[str]:
    """The options of a verb, or of one within a group; what follows a verb otherwise isn't looked at."""
    command: Any = typer.main.get_command(app)
    for word in words:
        inner = getattr(command, "commands", None)
        if inner is None:
            break
        assert word in inner, f"handscroll {' '.join(words)}: there is no {word}"
        command = inner[word]
    return {"--help", *(name for each in command.params for name in (*each.opts, *each.secondary_opts))}


def inline_code(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
